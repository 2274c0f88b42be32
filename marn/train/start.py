"""Start a training from the weights of another run."""

import hashlib
from pathlib import Path

from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import fingerprint
from marn.models import Coder
from marn.saving import load_model


def copy_weights(model: Coder, corpus: Corpus, source: str | Path) -> str:
    """Give a model the weights of a run of the same system, sizes and words.

    A task may have other codes than in the run, or be new; then its part of the head is not copied.

    Args:
        model: as it was built for the corpus; it is changed.
        corpus: to train on.
        source: run directory, also of a run that has not ended.

    Returns:
        A digest of the weights that the model starts from, 16 hexadecimal digits.

    Raises:
        MarnError: naming what does not match.
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
            f"init_from {source} knows other words than corpus {corpus.name!r} has "
            f"({len(saved.vocabulary)} and {len(corpus.vocabulary)}); use a corpus with its words"
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
