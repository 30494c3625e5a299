"""The text around an equation: whether it is whole there, and whether the text doubts it."""

from collections.abc import Sequence
from fractions import Fraction

from cord_jax.filters.equations.sides import Side
from cord_jax.filters.equations.tokens import OPERANDS, PLAIN, Token


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words before a number with which it is part of something that is not understood: `half of 30`, `Day 1`.
_BINDING = _words(
    "of and or times plus minus by over from to half twice thrice double triple quarter third square squared "
    "root sqrt cube cubed log ln lg sin cos tan cot sec exp max min gcd lcm mod choose than less more per dozen "
    "hundred thousand million billion multiply multiplied divide divided add added adding subtract subtracted "
    "subtracting between first last next previous factorial power powers digit digits not "
    "day week month year grade section level step case row column part chapter page question problem equation number "
    "room line item option round game class group team player stage phase figure table type age "
    "days weeks months years grades sections levels steps cases rows columns parts chapters pages questions problems "
    "equations numbers rooms lines items options"
)
_DETERMINERS = _words("the a an her his its their our your my this that these those")
_TOTALS = _words("total sum cost amount profit")  # a total of 3 + 4
_RESULTS = _words("sum sums up comes came amounts adds totals equal equals leads down")  # adds up to 3 + 4
# Words after a number with which it says something else: `3 million`, `7 remainder 2`, `3 to 1`.
_CONTINUING = _words(
    "remainder rem plus minus divided multiplied over choose or hundred hundreds thousand thousands million "
    "millions billion billions trillion dozen dozens to through factorial squared cubed out"
)
_SUPPOSING = _words(
    "if whether suppose supposing supposed assume assuming let define defined imagine unless operation pretend claim "
    "claims claimed"
)
_REFUTING = _words(
    "wrong incorrect incorrectly false invalid impossible contradiction contradicts contradictory contradict mistake "
    "mistaken mistakenly mistakes error errors absurd inconsistent nonsense untrue fails fail"
)
_DENYING = _words("not never cannot neither nor instead")
_ROUNDED = _words("to up down off it")  # round to
_ASSENT = _words("true right correct possible valid hold work equal make")  # That is not right.
_ROUNDING = _words(
    "about approximately approx approximate approximates roughly rounded rounding nearest around almost "
    "nearly estimate estimated estimates estimation"
)
# With these a number may be the whole part of the value.
_CUTTING = _words(
    "floor ceiling ceil whole full complete completely integer remainder remainders left leftover quotient truncate "
    "truncated truncating rest only least most cannot up down entire closest decimal remaining"
)
# With these the numbers of an equation may count something else than they say.
_OTHER_NUMBERS = _words(
    "modular congruent congruence binary base hex hexadecimal octal clock xor bitwise thousand thousands million "
    "millions billion billions hundred hundreds"
)
_KINDS = {
    word: kind
    for words, kind in (
        (_CUTTING, "cutting"),
        (_SUPPOSING, "supposing"),
        (_REFUTING, "refuting"),
        (_DENYING, "denying"),
        (_ROUNDING, "rounding"),
        (_OTHER_NUMBERS, "other numbers"),
    )
    for word in words
}
_CHAIN_AHEAD = 40  # tokens in which a number after a comma may turn out to begin an equation


class Context:
    """The surroundings of every equation of a text."""

    def __init__(self, tokens: Sequence[Token]):
        """Goes over the tokens once and notes what each sentence says about its equations."""
        self._tokens = tokens
        self._sentences: list[int] = []  # of every token
        self._clauses: list[int] = []
        self._says: dict[int, set[str]] = {}  # sentence -> kinds of words in it
        self._supposed: set[int] = set()  # clauses
        self._first_equals: dict[int, int] = {}  # sentence -> token
        sentence = clause = 0
        for at, token in enumerate(tokens):
            self._sentences.append(sentence)
            self._clauses.append(clause)
            said = self._says.setdefault(sentence, set())
            if token.kind == "word":
                word = token.text.lower()
                kind = "denying" if word.endswith(("n't", "n’t")) else _KINDS.get(word)
                if kind == "supposing":
                    self._supposed.add(clause)
                following = tokens[at + 1].text.lower() if at + 1 < len(tokens) else ""
                if kind == "denying" and following in _ASSENT:
                    said.add("refuting")
                if word == "round" and following in _ROUNDED:
                    said.add("rounding")
                if kind is not None:
                    said.add(kind)
                clause += word == "then"
            elif token.kind == "compare" and token.text in "≈∼≅":
                said.add("cutting")
            elif (
                token.text in ("\\pmod", "\\pod")
                or token.kind == "mod"
                and at
                and tokens[at - 1].kind == "left"
            ):
                said.add("other numbers")
            elif token.kind == "equals":
                self._first_equals.setdefault(sentence, at)
            elif token.kind in ("end", "line", "marker"):
                if token.text == "?":
                    said.add("denying")
                sentence, clause = sentence + 1, clause + 1
            elif token.kind in ("comma", "colon"):
                clause += 1

    def begins_at(self, start: int, side: Side) -> bool:
        """Whether a side that begins with this token is whole on its left."""
        tokens, first = self._tokens, self._tokens[start]
        before = tokens[start - 1] if start else Token("line", "", -1, 0)
        if before.kind == "equals":
            return True
        if first.text == "+" or first.text == "-" and first.end < tokens[start + 1].start:
            return False
        attached = before.end == first.start
        match before.kind:
            case "word":
                return (
                    first.kind in ("number", "fraction")
                    and not attached
                    and side.computed
                    and self._lets_go(start - 1)
                )
            case "line" | "end":
                return start < 2 or tokens[start - 2].kind not in ("operator", "power")
            case "marker" | "compare":
                return side.computed
            case "colon":
                tight = start > 1 and tokens[start - 2].end == before.start
                return start < 2 or tokens[start - 2].kind not in OPERANDS or side.computed and tight
            case "comma":
                listed = start > 1 and tokens[start - 2].kind in OPERANDS
                return side.computed and not (listed and self._first_equals[self._sentences[start]] >= start)
            case "left":
                return start < 2 or tokens[start - 2].end < before.start
        return False

    def _lets_go(self, at: int) -> bool:
        """Whether a word has nothing to do with the number after it."""
        word = self._tokens[at].text
        before = [token.text.lower() for token in self._tokens[max(0, at - 2) : at] if token.kind == "word"]
        if word.lower() in ("of", "to"):
            return bool(before) and before[-1] in (_TOTALS if word.lower() == "of" else _RESULTS)
        if word.lower() in _DETERMINERS:
            return not (before and before[-1] in _BINDING)
        plain = word.isalpha() and len(word) > 1 and not word.isupper()
        return plain and word.lower() not in _BINDING

    def ends_at(self, stop: int, left: Side) -> bool:
        """Whether a side that ends before this token is whole on its right."""
        tokens = self._tokens
        if stop == len(tokens):
            return True
        last, after = tokens[stop - 1], tokens[stop]
        following = tokens[stop + 1 : stop + 4]
        kinds = [token.kind for token in following] + [""] * 3
        attached = last.end == after.start
        match after.kind:
            case "equals" | "compare" | "line" | "marker" | "right" | "close":
                return kinds[0] != "mod"
            case "end":
                return not (after.text == "!" and attached)
            case "colon":
                return kinds[0] != "number"
            case "comma":
                return kinds[0] not in PLAIN or self._equation_follows(stop + 1)
            case "left":
                return not attached and kinds[0] == "word" and self._stands_alone(following[0])
            case "word":
                more = stop + 1  # 1 hour 30 minutes, 16 and (2/3)
                if kinds[0] == "word" and following[0].text.lower() == "and":
                    more += 1
                if more < len(tokens) and tokens[more].kind in PLAIN and not self._equation_follows(more):
                    return False
                alone = self._stands_alone(after) or after.text == "a" and kinds[0] == "word"  # 3 a day
                return not attached and alone and (left.computed or after.text.lower() in ("and", "so"))
        return False

    @staticmethod
    def _stands_alone(word: Token) -> bool:
        return len(word.text) > 1 and word.text.isalpha() and word.text.lower() not in _CONTINUING

    def _equation_follows(self, start: int) -> bool:
        """Whether what begins here goes on to an `=`."""
        for token in self._tokens[start : start + _CHAIN_AHEAD]:
            if token.kind not in PLAIN:
                return token.kind == "equals"
        return False

    def excuses(self, at: int, difference: Fraction) -> bool:
        """Whether the text itself does not stand by an equation whose sides differ so much."""
        sentence = self._sentences[at]
        here, before, after = (self._says.get(sentence + i, set()) for i in (0, -1, 1))
        if self._clauses[at] in self._supposed or here & {"denying", "refuting", "rounding", "other numbers"}:
            return True
        if "refuting" in after:
            return True
        return difference < 1 and bool((here | before | after) & {"rounding", "cutting"})
