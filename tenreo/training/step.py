"""One step of the optimizer, with gradient accumulation, mixed precision and distillation."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from tenreo.distributed import local_gradients
from tenreo.evaluation.ranking import predicted_classes
from tenreo.training.compilation import explain_compiler
from tenreo.training.loss import training_loss
from tenreo.training.settings import Settings
from tenreo.training.trainer import Trainer


def train_step(trainer: Trainer, images: Tensor, labels: Tensor, total: int) -> tuple[float, int, bool]:
    """Perform one step of the optimizer.

    Args:
        trainer: model and optimizer.
        images: (batch, channels, height, width) images of this process.
        labels: (batch,) class indices; -1 for images without labels.
        total: number of images in all processes together.

    Returns:
        The mean loss in nats and the number of correct predictions over all processes, and whether a process was
        asked to stop.
    """
    s = trainer.settings
    targets = labels
    if trainer.mix is not None:
        images, targets = trainer.mix(images, labels)
    if s.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    trainer.optimizer.zero_grad()
    count = _microbatch_count(s, total // trainer.group.size)
    microbatches = zip(images.tensor_split(count), targets.tensor_split(count), strict=True)
    figures = []
    for i, (x, y) in enumerate(microbatches):
        local = local_gradients(trainer.engine) if i < count - 1 else nullcontext()
        with local, explain_compiler(trainer.observer):
            # DistributedDataParallel averages gradients over processes, which may have unequal numbers of images; the
            # factor gives every image the same weight.
            figures.append(_backward(trainer, x, y, trainer.group.size / total))
    sums = torch.stack(figures).sum(0)
    if s.clip:
        trainer.scaler.unscale_(trainer.optimizer)
        nn.utils.clip_grad_norm_(trainer.model.parameters(), s.clip)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    if trainer.average is not None:
        trainer.average.update(trainer.model)
    stop = torch.tensor([trainer.observer.should_stop()], device=trainer.device)
    loss, correct, stops = trainer.group.sum(torch.cat([sums, stop.to(sums)])).tolist()
    return loss / total, int(correct), stops > 0


def _microbatch_count(settings: Settings, images: int) -> int:
    """Return the number of microbatches of a step, which is equal in all processes.

    None of them has a single image unless the batch size is 1, because BatchNorm may need two.
    """
    smallest = min(2, settings.batch_size)
    return max(1, min(math.ceil(images / settings.batch_size), images // smallest, settings.accumulate))


def _backward(trainer: Trainer, images: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Accumulate the gradient of the sum of the images' losses, multiplied by a weight.

    Returns:
        (2,) sum of the losses and number of correct predictions.
    """
    with torch.autocast(trainer.device.type, trainer.half, enabled=trainer.settings.amp):
        logits = trainer.engine(images)
        with torch.no_grad():
            teacher_logits = trainer.teacher(images) if trainer.teacher is not None else None
    loss = training_loss(logits, targets, teacher_logits, trainer.settings)
    trainer.scaler.scale(loss * (len(images) * weight)).backward()  # type: ignore[no-untyped-call]
    # Mixed images count as their predominant class, unlabeled images as the class that the teacher predicts.
    expected = targets if targets.ndim == 1 else targets.argmax(1)
    if teacher_logits is not None and trainer.train.classes == 0:
        expected = predicted_classes(teacher_logits)
    correct = (predicted_classes(logits.detach()) == expected).sum()
    # float64 represents counts exactly; MPS does not support it, but runs a single process only.
    dtype = torch.float32 if trainer.device.type == "mps" else torch.float64
    return torch.stack([loss.detach().to(dtype) * len(images), correct.to(dtype)])
