"""MARN in one file: the model, its losses, training and prediction, in torch alone.

Sun et al. 2022 read a discharge summary and assign it ICD codes (the diagnoses and procedures that
are billed) and CCS codes (coarser groups of them). This file follows their equations in the order
of the paper; `python -m marn.plain` trains it on the teaching corpus. The library's `marn` model is
a faster way of computing the same numbers, and tests check that the two agree.

Shapes: B notes in a batch, T tokens in the longest of them, E features of a word vector, D features
of a token after the GRU, C codes of a task. `mask` is (B, T), true at tokens and false at padding.
Every layer leaves padding at zero and lets nothing leak out of it, so that a note's result does not
depend on its batch. The authors' code has no mask; `mask=None` does the same as that code. Tokens
come second, (B, T, D), but in RAM last, (B, D, T), as torch's convolutions and norms expect.

Names here, and in the library:

* `embedding`, `dropout`: `embedding.table`, `embedding.dropout` and `ram.dropout`;
* `bigru.forwards`, `bigru.backwards`: `encoder`, one module for both directions;
* `Block.conv1`, `norm1` (`conv2`, `norm2`): `first.weight`, `first.norm` (`second`);
* `heads[task].query`, `.classifier`: `head.query[task]`, `head.weight[task]`, `head.bias[task]`.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

TASK_WEIGHTS = {"icd": 0.7, "ccs": 0.3}  # lambda of Eq. 17, Section 4.2


def reverse(x: Tensor, mask: Tensor | None) -> Tensor:
    """Reverse each note within its own length, and leave its padding at the end: `(B, T, *)`."""
    if mask is None:
        return x.flip(1)  # padding first
    # Token t of n goes to n - 1 - t, and from there back to t: the same call undoes it.
    t = torch.arange(x.shape[1], device=x.device)
    order = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - t, t)  # (B, T), e.g. 2 1 0 3 4
    return x.gather(1, order[..., None].expand_as(x))


class BiGRU(nn.Module):
    """A GRU from each end of the note, Eqs. 1-3."""

    def __init__(self, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forwards = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.backwards = nn.GRU(embedding_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Encode notes: (B, T, E) -> (B, T, D), with D = 2 hidden_size."""
        left = self.forwards(x)[0]  # Eq. 1: (B, T, D/2)
        right = reverse(self.backwards(reverse(x, mask))[0], mask)  # Eq. 2: (B, T, D/2)
        h = torch.cat([left, right], dim=2)  # Eq. 3: (B, T, D)
        # Each GRU also runs over the padding; its states there are set to 0.
        return h if mask is None else h * mask[..., None]


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel over all tokens of a batch, without padding."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Normalise features: (B, C, T) -> (B, C, T)."""
        if mask is None:
            return super().forward(x)
        out = torch.zeros_like(x).transpose(1, 2)  # (B, T, C)
        out[mask] = super().forward(x.transpose(1, 2)[mask])  # (tokens of the batch, C)
        return out.transpose(1, 2)


class Block(nn.Module):
    """Convolution, tanh, convolution, each normalised: Eqs. 4-6.

    The paper's "3 x 3" is a kernel over three tokens and all channels. "Down" and "up" change the
    number of channels, not of tokens. At stride 1 a deconvolution ("up") is a convolution too,
    whose kernel is flipped along the tokens.
    """

    def __init__(self, channels_in: int, channels_out: int, *, up: bool = False) -> None:
        super().__init__()
        layer = nn.ConvTranspose1d if up else nn.Conv1d
        self.conv1 = layer(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm1 = TokenNorm(channels_out)
        self.conv2 = layer(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm2 = TokenNorm(channels_out)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block: (B, channels_in, T) -> (B, channels_out, T)."""
        x = torch.tanh(self.norm1(self.conv1(x), mask))
        return self.norm2(self.conv2(x), mask)


class RAM(nn.Module):
    """Recalibrated Aggregation Module, Eqs. 7-11: an hourglass whose result reweights its input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.down1 = Block(size, size // 2)
        self.down2 = Block(size // 2, size // 4)
        self.lateral = Block(size // 4, size // 4)
        self.up1 = Block(size // 4, size // 2, up=True)
        self.up2 = Block(size // 2, size, up=True)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """Recalibrate the features: (B, T, D) -> (B, T, D)."""
        h = h.transpose(1, 2)  # (B, D, T), as convolutions expect
        d1 = self.down1(h, mask)  # Eq. 7: (B, D/2, T)
        d2 = self.down2(d1, mask)  # Eq. 8: (B, D/4, T)
        l1 = self.lateral(d2, mask)  # Eq. 9: (B, D/4, T)
        u1 = self.up1(l1, mask) + d1  # Eq. 10: (B, D/2, T)
        o = torch.tanh(self.up2(u1, mask) * h)  # Eq. 11: (B, D, T)
        return o.transpose(1, 2)


class LabelAttention(nn.Module):
    """One query and one classifier for each code of a task, Eqs. 12-15."""

    def __init__(self, size: int, codes: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, codes, bias=False)  # Q, one row per code
        self.classifier = nn.Linear(size, codes)  # W and a bias, one row per code
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.classifier.weight)

    def forward(self, o: Tensor, mask: Tensor | None) -> Tensor:
        """Compute logits: (B, T, D) -> (B, C)."""
        scores = self.query.weight @ o.transpose(1, 2)  # (B, C, T)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], float("-inf"))
        a = scores.softmax(dim=2)  # Eq. 12: (B, C, T), each row sums to 1
        v = a @ o  # Eq. 13: (B, C, D), each code's view of the note
        y = self.classifier.weight * v  # Eq. 14: (B, C, D), element by element
        return y.sum(dim=2) + self.classifier.bias  # Eq. 15 before its sigmoid: (B, C)


class MARN(nn.Module):
    """Multitask Balanced and Recalibrated Network.

    Args:
        vectors: (words, E) float, the word vectors; row 0 is padding, and zero.
        tasks: number of codes of each task, such as {"icd": 50, "ccs": 38}.
        hidden_size: features of one direction of the GRU.
        dropout: dropout probability after the embedding and after RAM.
        tune_embeddings: whether training changes the word vectors; the authors keep them frozen.
        padding: "masked", or "released" for what the authors' code does.
    """

    def __init__(
        self,
        vectors: Tensor,
        tasks: dict[str, int],
        *,
        hidden_size: int = 300,
        dropout: float = 0.2,
        tune_embeddings: bool = False,
        padding: str = "masked",
    ) -> None:
        super().__init__()
        size = 2 * hidden_size  # D
        self.embedding = nn.Embedding.from_pretrained(
            vectors, freeze=not tune_embeddings, padding_idx=0
        )
        self.bigru = BiGRU(vectors.shape[1], hidden_size)
        self.ram = RAM(size)
        self.heads = nn.ModuleDict({task: LabelAttention(size, c) for task, c in tasks.items()})
        self.dropout = nn.Dropout(dropout)
        self.padding = padding

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Score notes: word numbers (B, T), padded with 0 -> logits {task: (B, C)}."""
        mask = tokens > 0 if self.padding == "masked" else None  # (B, T)
        x = self.dropout(self.embedding(tokens))  # (B, T, E)
        h = self.bigru(x, mask)  # (B, T, D)
        o = self.dropout(self.ram(h, mask))  # (B, T, D)
        return {task: head(o, mask) for task, head in self.heads.items()}  # (B, C) each


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    reading: str = "released",
    alpha: float = 0.999,
    gamma: float = 2.0,
) -> Tensor:
    """Compute the focal loss as the authors' code does ("released") or as in Eq. 16 ("paper").

    Both multiply the cross-entropy of a decision by (1 - p_t)^gamma, which is small where the model
    is sure and right. Eq. 16 also gives a present code 999 times the weight of an absent one; the
    code gives all of them the same weight. (B, C), (B, C) -> scalar.
    """
    # Log of the probability that the model assigns to the truth, (B, C).
    log_p_t = F.logsigmoid(torch.where(targets == 1, logits, -logits))
    loss = -((1 - log_p_t.exp()) ** gamma) * log_p_t
    if reading == "released":
        return (alpha * loss).mean()
    loss = torch.where(targets == 1, alpha, 1 - alpha) * loss
    return loss.sum(dim=1).mean()  # Eq. 16: sum over codes, mean over notes


def joint_loss(
    logits: dict[str, Tensor], targets: dict[str, Tensor], *, reading: str = "released"
) -> Tensor:
    """Compute the weighted sum of the tasks' losses, Eq. 17: {task: (B, C)} twice -> scalar."""
    losses = {task: focal_loss(logits[task], targets[task], reading=reading) for task in logits}
    return torch.stack([TASK_WEIGHTS.get(task, 1.0) * x for task, x in losses.items()]).sum()


def train(
    model: MARN,
    notes: list[Tensor],
    targets: dict[str, Tensor],
    *,
    epochs: int = 1,
    batch_size: int = 16,
    learning_rate: float = 8e-3,
    warmup: float = 0.05,
    reading: str = "released",
) -> None:
    """Train on notes, (T,) int64 each, with targets {task: (N, C)}, 1 where a note has a code.

    The learning rate rises over the share `warmup` of all steps, then falls linearly to 0. Nothing
    is scored on the way: unlike `marn.fit`, it does not stop early or keep the best epoch.
    """
    batches = [b for _ in range(epochs) for b in torch.randperm(len(notes)).split(batch_size)]
    rising = max(1, round(warmup * len(batches)))
    falling = max(1, len(batches) - rising)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, (len(batches) - step) / falling)
    )
    model.train()
    progress = tqdm(batches, "training", disable=None)  # shown in a terminal only
    for batch in progress:  # (B,), places in `notes`
        tokens = pad_sequence([notes[i] for i in batch], batch_first=True)  # (B, T)
        present = {task: y[batch] for task, y in targets.items()}  # {task: (B, C)}
        loss = joint_loss(model(tokens), present, reading=reading)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


@torch.no_grad()
def predict(model: MARN, notes: list[Tensor], *, batch_size: int = 16) -> dict[str, Tensor]:
    """Return the probability of each code for each note, {task: (N, C)}: Eq. 15."""
    model.eval()
    batches = [notes[i : i + batch_size] for i in range(0, len(notes), batch_size)]
    logits = [model(pad_sequence(batch, batch_first=True)) for batch in batches]
    return {task: torch.cat([part[task] for part in logits]).sigmoid() for task in model.heads}


def micro_f1(probabilities: Tensor, targets: Tensor, threshold: float = 0.5) -> float:
    """Compute F1 over all pairs of a note and a code: (N, C), (N, C) -> a number from 0 to 1."""
    predicted, present = probabilities > threshold, targets == 1
    hits = (predicted & present).sum()
    return (2 * hits / (predicted.sum() + present.sum()).clamp(min=1)).item()


def main() -> None:
    """Train on a corpus, then print the micro-F1 of each task on its dev and test notes."""
    from marn.corpus import Corpus
    from marn.errors import MarnError

    parser = argparse.ArgumentParser(
        prog="python -m marn.plain", description=main.__doc__, usage=argparse.SUPPRESS
    )
    parser.add_argument("corpus", nargs="?", default="data/teaching", help="folder of the corpus")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=600, help="words read of each note")
    args = parser.parse_args()
    limits = {"epochs": (1, 999), "hidden_size": (2, 2048), "max_length": (1, 9999)}
    for name, (least, most) in limits.items():
        if not least <= (value := getattr(args, name)) <= most:
            parser.error(f"--{name.replace('_', '-')} must be {least} to {most}, but got {value}")
    try:
        corpus = Corpus.load(args.corpus)
    except MarnError as error:
        parser.error(str(error))

    def load(name: str) -> tuple[list[Tensor], dict[str, Tensor]]:
        split = corpus[name]
        words = [split.note_tokens(i)[: args.max_length] for i in range(len(split))]
        notes = [torch.tensor(note, dtype=torch.int64) for note in words]
        return notes, {task: torch.tensor(split.targets(task)).float() for task in corpus.tasks}

    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(len(corpus.vocabulary), 100), dim=1)
    vectors[0] = 0
    if corpus.vectors is not None:
        vectors = torch.tensor(corpus.vectors)
    model = MARN(vectors, corpus.tasks, hidden_size=args.hidden_size, tune_embeddings=True)
    # Not in the paper: RAM begins near O = tanh(H), not by multiplying H with noise as released.
    nn.init.constant_(model.ram.up2.norm2.weight, 0.1)
    nn.init.ones_(model.ram.up2.norm2.bias)
    train(model, *load("train"), epochs=args.epochs)
    for name in [split for split in corpus.splits if split != "train" and len(corpus[split])]:
        notes, targets = load(name)
        found = predict(model, notes)
        # Probabilities are low after one epoch: a threshold tuned on dev would beat 0.5.
        scores = [f"{task} {micro_f1(found[task], targets[task]):.3f}" for task in corpus.tasks]
        tqdm.write(f"{name}: micro-F1 {', '.join(scores)}")


if __name__ == "__main__":
    main()
