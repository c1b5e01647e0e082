"""Tests of the event files with the reader of TensorBoard."""

import pytest
from networks import digits_classifier

from tenreo.training.loop import finetune_
from tenreo.training.observer import Observer
from tenreo.training.settings import Settings
from tenreo.training.tensorboard import TensorBoard


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_every_step_and_evaluation(digits, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board, steps = TensorBoard(tmp_path), []

    class Both(Observer):
        def on_step(self, step):
            steps.append(step)
            board.step(step)

        def on_epoch(self, epoch, is_best):
            board.epoch(epoch)

    data = digits[0].limited(48), digits[1].limited(16)
    history = finetune_(digits_classifier(), *data, Settings(epochs=2, batch_size=16), observer=Both())
    board.close()
    found = reading.EventAccumulator(str(tmp_path))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(i + 1, pytest.approx(step.loss, rel=1e-6)) for i, step in enumerate(steps)]
    tops = [(event.step, event.value) for event in found.Scalars("val/top1")]
    assert tops == [(3 * e.epoch, pytest.approx(e.top1, rel=1e-6)) for e in history]
