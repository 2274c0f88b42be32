"""The codes that only CMS lists: thousands of rare ones, named by rule from their titles.

How often one comes is its chapter's weight times a fixed luck of its own. The weights are ours,
set by hand; no counts of patients stand behind them.
"""

import re
from functools import lru_cache
from math import exp

from data_prep.hospital.code_catalogue import (
    RAREST,
    SERVICES,
    Code,
    diagnosis_ccs,
    every_code,
    procedures,
    titles,
)
from data_prep.hospital.portable_random import Dice, running_sums

CODES = 9_150
"""So many that with head and tail about 8,920 codes come in 52,726 notes (data.md 2.1)."""

SPREAD = 2.5
"""Standard deviation of the logarithm of the luck: half of the codes come fewer than 10 times."""

LEVEL = 120
"""So many at the top come equally often, below the head."""

CHAPTERS = (
    ("dx", "001", "018", 0.5, "MED"), ("dx", "020", "027", 0.03, "MED"),
    ("dx", "030", "041", 1.0, "MED OMED SURG"), ("dx", "042", "044", 0.3, "MED"),
    ("dx", "045", "066", 0.05, "MED"), ("dx", "070", "079", 0.6, "MED"),
    ("dx", "080", "104", 0.04, "MED"), ("dx", "110", "118", 0.8, "OMED MED"),
    ("dx", "120", "139", 0.08, "MED"), ("dx", "140", "239", 1.1, "OMED SURG NSURG"),
    ("dx", "240", "279", 1.5, "MED SURG"), ("dx", "280", "289", 1.2, "MED OMED"),
    ("dx", "290", "319", 0.9, "MED NMED"), ("dx", "320", "359", 1.0, "NMED NSURG"),
    ("dx", "360", "389", 0.3, "MED NMED"), ("dx", "390", "459", 2.2, "CMED CSURG MED NMED"),
    ("dx", "460", "519", 1.6, "MED SURG"), ("dx", "520", "529", 0.25, "MED"),
    ("dx", "530", "579", 1.8, "SURG MED"), ("dx", "580", "629", 1.2, "MED SURG"),
    ("dx", "630", "679", 1.0, "OBS"), ("dx", "680", "709", 0.7, "MED SURG"),
    ("dx", "710", "739", 1.0, "ORTHO NSURG MED"), ("dx", "740", "759", 0.3, "CSURG NB"),
    ("dx", "760", "779", 1.0, "NB"), ("dx", "780", "799", 1.6, "MED NMED CMED"),
    ("dx", "800", "939", 0.8, "TRAUM ORTHO NSURG"), ("dx", "940", "949", 0.1, "TRAUM"),
    ("dx", "950", "959", 0.4, "TRAUM"), ("dx", "960", "995", 0.5, "MED"),
    ("dx", "996", "999", 3.0, "SURG CSURG ORTHO"), ("dx", "E00", "E99", 0.5, "TRAUM ORTHO NSURG"),
    ("dx", "V00", "V91", 1.0, "MED SURG CMED OMED"),
    ("pr", "00", "05", 0.9, "NSURG CMED"), ("pr", "06", "07", 0.4, "SURG"),
    ("pr", "08", "16", 0.06, "SURG"), ("pr", "17", "17", 0.3, "SURG"),
    ("pr", "18", "29", 0.25, "SURG TRAUM"), ("pr", "30", "34", 1.0, "SURG CSURG"),
    ("pr", "35", "39", 2.2, "CSURG CMED SURG"), ("pr", "40", "41", 0.6, "OMED SURG"),
    ("pr", "42", "54", 2.0, "SURG MED"), ("pr", "55", "59", 1.0, "SURG MED"),
    ("pr", "60", "64", 0.4, "SURG"), ("pr", "65", "71", 0.4, "SURG"),
    ("pr", "72", "75", 1.0, "OBS"), ("pr", "76", "84", 1.2, "ORTHO TRAUM NSURG"),
    ("pr", "85", "86", 0.8, "SURG TRAUM"), ("pr", "87", "99", 2.0, "MED CMED SURG OMED"),
)  # fmt: skip
"""Kind, first and last category, weight, and the services that see it."""

SELDOM = re.compile(
    r"\bwar\b|terroris|spacecraft|railway|streetcar|aircraft|parachut|animal-drawn|venomous|legal "
    r"intervention|watercraft|nuclear|snow vehicle|nontraffic|cataclysm|hurricane|tsunami|earthq",
    re.IGNORECASE,
)
FIRST_DAYS = re.compile(r"newborn|neonat|fetus|fetal|perinatal|liveborn|at birth", re.IGNORECASE)
BIRTH = re.compile(
    r"pregnan|deliver(y|ed)|partum|obstetric|puerper|gestation|cesarean|placenta", re.IGNORECASE
)
CHILDREN = re.compile(r"juvenile|infant|child|congenital|pediatric|developmental", re.IGNORECASE)
WOMEN = re.compile(
    r"female|ovar(y|ian)|uter(us|ine)|cervix|vagin|vulva|fallopian|endometri|menopaus|menstr",
    re.IGNORECASE,
)
MEN = re.compile(r"\bmale\b|prostat|testi(s|cular)|penis|scrot|seminal|sperm", re.IGNORECASE)
OLD = re.compile(r"senile|presbyop|age-related", re.IGNORECASE)
VAGUE = re.compile(r"unspecified|not otherwise specified|without mention", re.IGNORECASE)
LASTING = (("140", "319"), ("320", "389"), ("401", "405"), ("412", "414"), ("424", "429"),
           ("440", "459"), ("490", "496"), ("585", "585"), ("710", "759"))  # fmt: skip

SHORT = {
    "fracture": "fx", "with": "w/", "without": "w/o", "due to": "2/2", "disease": "dz",
    "infection": "infxn", "hemorrhage": "bleed", "bilateral": "b/l", "syndrome": "synd",
    "chronic": "chr", "secondary": "2ry", "malignant": "malig", "carcinoma": "ca",
    "disorder": "d/o", "replacement": "repl", "injury": "inj", "resection": "resxn",
    "biopsy": "bx", "operation": "op", "history of": "h/o", "complication": "compl",
    "unilateral": "unilat", "laceration": "lac", "insufficiency": "insuff", "artery": "art",
    "procedure": "proc", "diagnostic": "dx", "transplant": "txp", "metastatic": "met",
    "neoplasm": "tumor", "abnormality": "abnl", "respiratory": "resp", "pulmonary": "pulm",
    "gastrointestinal": "GI", "genitourinary": "GU", "percutaneous": "perc", "examination": "exam",
    "radiography": "film", "computerized axial tomography": "CT", "intracranial": "IC",
    "cerebral": "cer", "abdominal": "abd", "thoracic": "T", "lumbar": "L", "cervical": "C",
    "extremity": "ext", "anomaly": "anom", "congenital": "cong", "nontraumatic": "nontraum",
    "postoperative": "postop", "peripheral": "periph", "vascular": "vasc", "rheumatic": "rheum",
    "diabetes mellitus": "DM", "hypertensive": "HTN", "hypertension": "HTN", "rupture": "rupt",
    "tuberculosis": "TB", "dependence": "dep", "embolism": "PE", "thrombosis": "thromb",
    "superficial": "superf", "occlusion": "occl", "stenosis": "sten",
}  # fmt: skip
_SHORT = re.compile(r"\b(" + "|".join(sorted(SHORT, key=len, reverse=True)) + r")\b")
_TURNS = (
    (r"^(?:malignant|primary malignant) neoplasm of (?:the )?(.+)$",
     ("{0} cancer", "cancer of the {0}", "{0} malignancy")),
    (r"^secondary malignant neoplasm of (?:the )?(.+)$", ("{0} metastasis", "spread to the {0}")),
    (r"^benign neoplasm of (?:the )?(.+)$", ("benign {0} tumor", "benign tumor of the {0}")),
    (r"^(closed|open) fracture of (?:the )?(.+)$",
     ("{0} {1} fracture", "{1} fracture, {0}", "{1} fx")),
    (r"^open wound of (?:the )?(.+)$", ("{0} laceration", "open {0} wound", "{0} wound")),
    (r"^contusion of (?:the )?(.+)$", ("{0} contusion", "bruised {0}")),
    (r"^injury to (?:the )?(.+)$", ("{0} injury", "injured {0}")),
    (r"^personal history of (.+)$", ("prior {0}", "h/o {0}", "history of {0}")),
    (r"^family history of (.+)$", ("family history of {0}", "{0} in the family")),
    (r"^poisoning by (.+)$", ("{0} overdose", "{0} poisoning", "{0} toxicity")),
    (r"^(acute|chronic|acquired|congenital) (.+)$", ("{0} {1}", "{1}, {0}")),
    (r"^(excision|repair|biopsy|resection|incision|replacement|removal) of (?:the )?(.+)$",
     ("{1} {0}", "{0} of the {1}")),
    (r"^(.+) of (?:the )?(\w+)$", ("{1} {0}", "{0} of the {1}")),
)  # fmt: skip
_DROP = re.compile(
    r"\s*\([^)]*\)|,?\s*(?:not elsewhere classified|not otherwise specified|so stated|unspecified"
    r"(?: as to [a-z ]+)?|(?:without|with no) mention of [a-z ,]+|type unspecified|"
    r"organism unspecified|site unspecified|episode of care unspecified(?: or not applicable)?)",
    re.IGNORECASE,
)
_PART = re.compile(r",? (?=(?:with|without|due to|by|complicated by|as cause of|affecting) )|, ")


def plain(title: str) -> str:
    """A title as somebody would say it: without administrative words, in lower case.

    Args:
        title: long title of CMS.
    """
    said = re.sub(r"^(?:other(?: and unspecified)?|unspecified) ", "", title, flags=re.IGNORECASE)
    said = re.sub(r"[\[\]<>{}|~;]", "", _DROP.sub("", said)).strip(" ,")
    return said if said[1:2].isupper() else said[:1].lower() + said[1:]


def spoken(title: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a code and what is said behind them, from its title.

    Args:
        title: long title of CMS.

    Returns:
        Names of the head noun, and qualifiers (none, or one).
    """
    said = plain(title) or title.lower()
    noun, *rest = _PART.split(said, maxsplit=1)
    names = [noun]
    for pattern, forms in _TURNS:
        found = re.match(pattern, noun)
        if found:
            names += [form.format(*found.groups()) for form in forms]
            break
    names += [_SHORT.sub(lambda found: SHORT[found[0]], name) for name in (names[0], names[-1])]
    short = re.split(r" (?:of|for|in|by|or|and|to|on|from) ", names[-1])[0]
    if len(short) >= 8 and " " in short:
        names.append(short)
    names = [name for name in names if len(name) <= 32] or [min(names, key=len)]
    post = tuple(part.strip(" ,") for part in rest if part.strip(" ,"))
    return tuple(dict.fromkeys(names)), post


def _who(kind: str, code: str, title: str) -> tuple[str, tuple[int, int]] | None:
    """Sex and ages that can have a code; None for codes that nobody here can have."""
    birth = (kind == "dx" and "630" <= code[:3] <= "679") or (kind == "pr" and code[:2] in BIRTHS)
    if birth or BIRTH.search(title):
        return "F", (16, 45)
    if (kind == "dx" and ("760" <= code[:3] <= "779" or "V29" <= code[:3] <= "V39")) or (
        FIRST_DAYS.search(title)
    ):
        return "", (0, 0)
    sex = "F" if WOMEN.search(title) else "M" if MEN.search(title) else ""
    if kind == "pr" and code[:2] in ("60", "61", "62", "63", "64"):
        sex = "M"
    elif kind == "pr" and "65" <= code[:2] <= "71":
        sex = "F"
    if CHILDREN.search(title) and not (kind == "dx" and "740" <= code[:3] <= "759"):
        return None
    return sex, (60 if OLD.search(title) else 1, 120)


BIRTHS = ("72", "73", "74", "75")


@lru_cache(maxsize=1)
def _weighted() -> tuple[tuple[Code, float, tuple[str, ...]], ...]:
    """Code, weight and services of the rare codes, by weight."""
    head, tail = every_code()
    taken = {code.key for code in (*head, *tail)}
    found = []
    for kind in ("dx", "pr"):
        for raw, (_, title) in titles(kind).items():
            at = 2 if kind == "pr" else 4 if raw[0] == "E" else 3
            code = raw if len(raw) <= at else f"{raw[:at]}.{raw[at:]}"
            who, row = _who(kind, code, title), _chapter(kind, raw)
            if (kind, code) in taken or who is None or row is None:
                continue
            weight = row[3] * Dice("rare", kind, code).lognormal(1.0, SPREAD)
            weight *= (3.0 if VAGUE.search(title) else 1.0) * exp(-len(title) / 60)
            weight *= 0.02 if SELDOM.search(title) else 1.0
            found.append((weight, kind, code, title, who, tuple(row[4].split())))
    found.sort(key=lambda entry: (-entry[0], entry[2]))
    level = found[LEVEL][0]
    codes = []
    for place, (weight, kind, code, title, who, services) in enumerate(found[:CODES]):
        names, post = spoken(title)
        if kind == "dx":
            ccs = diagnosis_ccs().get(code.replace(".", ""), "")
        else:
            ccs = procedures().get(code, {}).get("ccs", f"rubric {code[:2]}")
        lasting = kind == "dx" and any(low <= code[:3] <= high for low, high in LASTING)
        made = Code(
            kind=kind,
            code=code,
            ccs=ccs,
            rank=RAREST + place,
            sex=who[0],
            ages=who[1],
            names=names,
            post=post,
            lasting=lasting,
        )
        codes.append((made, min(weight, level), services))
    return tuple(codes)


def _chapter(kind: str, raw: str) -> tuple[str, str, str, float, str] | None:
    place = raw[: 2 if kind == "pr" else 3]
    return next((row for row in CHAPTERS if row[0] == kind and row[1] <= place <= row[2]), None)


@lru_cache(maxsize=1)
def rare_codes() -> tuple[Code, ...]:
    """All rare codes, the most frequent first."""
    return tuple(code for code, *_ in _weighted())


@lru_cache(maxsize=1)
def rare_lottery() -> dict[str, tuple[tuple[Code, ...], list[float]]]:
    """Service → (codes, running sums of their weights)."""
    lottery = {}
    for service in SERVICES:
        codes, weights = [], []
        for code, weight, services in _weighted():
            newborn, birth = code.ages == (0, 0), code.ages == (16, 45)
            if newborn != (service == "NB") or (birth and service != "OBS"):
                continue
            if not birth and not newborn:
                weight *= 2.5 if service in services else 0.35
                if services[0] == "TRAUM" and service not in services:
                    weight *= 0.1
                if service == "OBS":
                    weight *= 0.02
            codes.append(code)
            weights.append(weight)
        lottery[service] = (tuple(codes), running_sums(weights))
    return lottery
