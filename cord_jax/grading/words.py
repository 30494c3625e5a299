"""Answers in words, which are compared as text and never as mathematics."""

import re
import string

_COMMAND = re.compile(r"\\[A-Za-z]+")
_SCRIPT = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\\?\w+)")
_RUN = re.compile(r"[^\W\d_]{2,}")
_FUNCTIONS = frozenset(
    "sin cos tan sec csc cot sinh cosh tanh arcsin arccos arctan asin acos atan log ln lg exp sqrt cbrt root frac dfrac "
    "binom min max gcd lcm mod det abs floor ceil inf infty infinity pi or and alpha beta gamma delta epsilon theta "
    "lambda sigma omega phi psi rho tau mu nu eta xi zeta kappa dx dy dt choose union oo deg arg re im".split()
)
# Two letters that stand alone are an English word, not a product of two variables.
_SHORT_WORDS = frozenset(
    "no on is it to of in at as if by be we he an am us up so do go me my hi oh ok non not the one two six ten top pot "
    "was saw yes all any but for few ham her his how its may new now odd old our out own per set she six ten too try "
    "use way who why you are can cat act god dog tea eat ate net war raw live even".split()
)
_VERDICTS = frozenset("yes no maybe true false unknown undetermined".split())
_ARTICLES = re.compile(r"^(?:a|an|the)\s+(?=\S)")
_EDGES = string.punctuation + " "
_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = (
    "(" + "|".join(f"{month[:3]}(?:{month[3:]})?" if month[3:] else month for month in _MONTHS) + r"|sept)\.?"
)
_DATES = (
    (re.compile(rf"\b{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b"), (3, 1, 2)),
    (re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+{_MONTH},?\s+(\d{{4}})\b"), (3, 2, 1)),
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s*(?:(a|p)\.?\s?m\.?)?")


def is_prose(text: str) -> bool:
    """Whether the plain form of an answer holds words, so that it is no mathematics.

    Words are runs of four letters or more that name no function, and shorter ones that stand by themselves.
    """
    text = _SCRIPT.sub(" ", _COMMAND.sub(" ", text))
    runs = [run for run in _RUN.finditer(text) if run[0].lower() not in _FUNCTIONS]
    for run in runs:
        before, after = text[: run.start()].rstrip(), text[run.end() :].lstrip()
        alone = not before and not after
        if len(run[0]) >= 4 or not run[0].isascii():
            return True
        if alone and not set(run[0]) <= set("xyz"):
            return True
        if run[0].lower() in _SHORT_WORDS:
            return True
    return False


def is_function(word: str) -> bool:
    """Whether letters are the name of a function or of a Greek letter, typed out."""
    return word.lower() in _FUNCTIONS


def normal_words(text: str) -> str:
    """Words as they are compared: without case, articles at the front, punctuation at the ends and between words."""
    text = re.sub(r"-(?!\d)|(?<=\w)-", " ", text.casefold()).replace("&", " and ")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"[.,;:!?\"'`](?=\s|$)|(?<=\s)[\"'`(]|[()]", " ", text)
    text = " ".join(text.split())
    for pattern, (year, month, day) in _DATES:
        text = pattern.sub(lambda m: f"{m[year]} {_month_number(m[month]):02d} {int(m[day]):02d}", text)
    text = text.strip(_EDGES)
    return _ARTICLES.sub("", text)


def same_words(predicted: str, gold: str) -> bool:
    """Whether two answers in words are the same; after yes, no, maybe, true or false reasons may follow."""
    wanted, written = normal_words(gold), normal_words(predicted)
    if wanted and wanted == written:
        return True
    if wanted in _VERDICTS:
        first = re.match(r"\W*([A-Za-z]+)\W*(?:[,.;:(-]\s|\s-|\s+(?:because|since|as)\b)", predicted)
        return bool(first) and first[1].casefold() == wanted
    return False


def clock_time(text: str) -> tuple[int, bool] | None:
    """Seconds since midnight, and whether a half of the day was named; None for what is no time of day."""
    found = _CLOCK.fullmatch(text.casefold())
    if not found or (found[2] is None and found[4] is None):
        return None
    hour, minute, second = (int(found[i] or 0) for i in (1, 2, 3))
    if minute > 59 or second > 59 or hour > (12 if found[4] else 24):
        return None
    if found[4]:
        hour = hour % 12 + (12 if found[4] == "p" else 0)
    return hour * 3600 + minute * 60 + second, bool(found[4])


def same_time(a: tuple[int, bool], b: tuple[int, bool]) -> bool:
    """Whether two times of day are the same; one that names no half of the day may be either."""
    return a[0] == b[0] or (a[1] != b[1] and (a[0] - b[0]) % 43200 == 0)


def _month_number(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, start=1) if month.startswith(name[:3]))
