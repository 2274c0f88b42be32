"""Small corpora and batches that tests make up on the spot."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import torch

from data_prep.corpus_writer import CorpusWriter, replacing
from marn.corpus import CodeEntry, Corpus
from marn.corpus.text import Vocabulary

TINY_BERT = {
    "configuration": {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
}

TITLES = {
    # Of the tasks of test_models; one without words, which is described by the unknown word.
    "icd": [[3, 4], [5], [], [6, 7, 8, 9, 10, 11], [3, 12]],
    "ccs": [[3], [4, 5], [6]],
    "chapter": [[7, 8], [9]],
}

SYSTEM_SIZES = {
    # Options that make each system small enough for a test.
    "attentive_lstm": {
        "hidden_size": 10,
        "letter_size": 4,
        "segment_size": 4,
        "descriptions": TITLES,
        "spelling": [f"w{number}" for number in range(1, 39)],
    },
    "bigru": {"hidden_size": 16},
    "bigru_la": {"hidden_size": 8},
    "c_memnn": {"hidden_size": 12, "hops": 3, "descriptions": TITLES},
    "caml": {"filters": 8, "kernel_size": 4},
    "clinicalbert": {**TINY_BERT, "window": 9},
    "cnn": {"filters": 16},
    "dcan": {"filters": 12, "projected": 12, "dropout": 0.0},
    "dlac": {"hidden_size": 8, "descriptions": TITLES},
    "dr_caml": {
        "filters": 8,
        "kernel_size": 4,
        "descriptions": {"icd": TITLES["icd"], "ccs": TITLES["ccs"]},
    },
    "gatedcnn_nci": {"hidden_size": 12, "levels": 3, "dropout": 0.0},
    "hypercore": {
        "filters": 8,
        "kernel_size": 4,
        "ball_size": 3,
        "tree_steps": 20,
        "descriptions": TITLES,
        "tree": {
            "icd": [["1.1", "1", "dx"], ["1.2", "1", "dx"], ["2", "dx"], ["3", "dx"], ["4", "pr"]],
            "ccs": [["1", "dx"], ["2", "dx"], ["3", "pr"]],
            "chapter": [["1"], ["2"]],
        },
        "edges": {"icd": [[0, 1, 0.5], [1, 4, 0.25]], "ccs": [[0, 2, 0.1]], "chapter": []},
    },
    "fusion": {
        "kernel_sizes": (3, 5),
        "widths": (8, 4),
        "heads": 2,
        "hidden_size": 12,
        "dropout": 0.0,
    },
    "joint_laat": {"hidden_size": 8, "attention_size": 6, "coarse_size": 4},
    "laat": {"hidden_size": 8, "attention_size": 6},
    "marn": {"hidden_size": 8},
    "mdbert": {**TINY_BERT, "segment": 4, "document_layers": 1},
    "mt_ram": {"hidden_size": 8},
    "multirescnn": {"kernel_sizes": (3, 5), "widths": (8, 4), "dropout": 0.0},
    "plm_icd": {**TINY_BERT, "window": 6},
}


def sizes_alone(name):
    """The options of `SYSTEM_SIZES` that a corpus does not give."""
    given = ("descriptions", "tree", "edges", "spelling")
    return {key: value for key, value in SYSTEM_SIZES.get(name, {}).items() if key not in given}


def watch_training(model, action):
    """Call `action(number, tokens, logits)` after every forward pass in training, from 1.

    It may raise, or return other logits. Returns the model.
    """
    numbers = count(1)

    def hook(module, inputs, logits):
        return action(next(numbers), inputs[0], logits) if module.training else None

    model.register_forward_hook(hook)
    return model


def interrupt(model, step):
    """Press Ctrl-C in this step of a training."""

    def action(number, tokens, logits):
        if number == step:
            raise KeyboardInterrupt

    return watch_training(model, action)


def rewrite(folder, card):
    """Write the card of a model by hand, without its sum, as version 0.2.0 did."""
    kept = {key: value for key, value in card.items() if key != "card_sha256"}
    (folder / "model.json").write_text(json.dumps(kept))


def padded(lengths, vocabulary_size=40, seed=0):
    """Random tokens of these lengths: (B, T) int64 and (B,) int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary_size, (len(lengths), max(lengths)), generator=generator)
    sizes = torch.tensor(lengths)
    tokens[torch.arange(max(lengths)) >= sizes[:, None]] = 0
    return tokens, sizes


def toy_corpus(path, notes=(24, 8, 8), codes=4, seed=0, tasks=("icd", "ccs")):
    """A corpus whose word k means ICD code k; CCS code 0 stands for codes 0 and 1, and so on."""
    rng = np.random.default_rng(seed)
    words = sorted([f"code{k}" for k in range(codes)] + [f"word{k}" for k in range(20)])
    vocabulary = Vocabulary(words)
    entries = {
        "icd": [CodeEntry(f"{401 + k}.0", "dx", f"Disease {k}") for k in range(codes)],
        "ccs": [CodeEntry(f"dx:{k}", "dx", f"Group {k}") for k in range((codes + 1) // 2)],
        "odd": [CodeEntry(name, "dx", f"{name} code") for name in ("Even", "Odd")],
    }
    entries = {task: entries[task] for task in tasks}
    parent = [k // 2 for k in range(codes)] if "ccs" in tasks else []
    with replacing(Path(path)) as folder:
        writer = CorpusWriter(folder, entries, parent)
        for split, count in zip(("train", "dev", "test"), notes, strict=True):
            present = [
                sorted(rng.choice(codes, rng.integers(1, 3), replace=False)) for _ in range(count)
            ]
            texts = []
            for mine in present:
                filler = [f"word{k}" for k in rng.integers(0, 20, rng.integers(3, 20))]
                texts.append(" ".join(rng.permutation(filler + [f"code{k}" for k in mine])))
            encoded = [vocabulary.encode(text.split()) for text in texts]
            columns = {
                "icd": [[int(k) for k in mine] for mine in present],
                "ccs": [sorted({int(k) // 2 for k in mine}) for mine in present],
                "odd": [sorted({int(k) % 2 for k in mine}) for mine in present],
            }
            writer.split(
                split,
                ids=[f"{split}{i}" for i in range(count)],
                subjects=[f"p-{split}{i}" for i in range(count)],
                sizes=np.array([len(text) for text in texts]),
                texts=[text.encode() for text in texts],
                lengths=np.array([len(x) for x in encoded]),
                tokens=encoded,
                columns={task: columns[task] for task in tasks},
            )
        writer.finish(
            vocabulary=vocabulary,
            name="toy",
            source="made up by a test",
            text="open",
            language="en",
            command="toy_corpus()",
            seed=seed,
            ccs_key="kind:number",
            settings={},
            dropped={},
        )
    return Corpus.load(path)
