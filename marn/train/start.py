"""Start training from the weights of another run."""

import hashlib
from pathlib import Path

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import fingerprint
from marn.models import Coder
from marn.saving import load_model


def copy_weights(model: Coder, corpus: Corpus, source: str | Path) -> str:
    """Copy the weights of a run with the same system, sizes and vocabulary into a model.

    A task may have other codes than in the run, or be new; then its part of the head is not copied.

    Args:
        model: the model, built for the corpus; it is changed.
        corpus: the corpus to train on.
        source: run directory; the run need not have ended.

    Returns:
        A digest of the weights that the model starts from, 16 hexadecimal digits.

    Raises:
        MarnError: the system, its sizes or the vocabulary do not match, or the run cannot be read.
    """
    saved = load_model(source)
    given, mine = saved.model.state_dict(), model.state_dict()
    if saved.model.name != model.name:
        raise MarnError(
            f"init_from {source} is a {saved.model.name!r}, but the model is a {model.name!r}; "
            "train the same system"
        )
    known, wanted = saved.model.fingerprint or {}, fingerprint(corpus.vocabulary, corpus.codes)
    if known["words"] != wanted["words"]:
        raise MarnError(
            f"init_from {source} has another vocabulary than corpus {corpus.name!r} "
            f"({len(saved.vocabulary)} and {len(corpus.vocabulary)} rows); use a corpus with its "
            "words"
        )
    others = {t for t in {*saved.model.tasks, *model.tasks} if known.get(t) != wanted.get(t)}
    of_codes = {
        name for name in {*given, *mine} if name.startswith("head.") and {*name.split(".")} & others
    }
    differing = [
        name
        for name in sorted({*given, *mine} - of_codes)
        if name not in given or name not in mine or given[name].shape != mine[name].shape
    ]
    if differing:
        theirs, ours = saved.model.options, model.options
        options = [
            f"{key} was {theirs.get(key)!r:.60}, now {ours.get(key)!r:.60}"
            for key in sorted({*theirs, *ours} - {"seed"})
            if theirs.get(key) != ours.get(key)
        ]
        raise MarnError(
            f"init_from {source} has other weights ({'; '.join((options or differing)[:4])}); "
            "build the model with its options"
        )
    model.load_state_dict({name: mine[name] if name in of_codes else given[name] for name in mine})
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
