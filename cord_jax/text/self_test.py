"""Fixed texts on which a vocabulary is tried when it is loaded (method, section 3.4)."""

from cord_jax.text.segmentation import PREFIX_WORDS, heading

# Texts of every kind that a step may hold; none spells an added token.
SAMPLES = (
    "a",
    " a",
    "  a",
    "\na",
    "\n\n a",
    "a b  c   d\te \n f\n\n\ng ",
    "",
    "### Step 12. Let $x = 3$.\n\nSo \\(x^2 = 9\\), and\n\\[\n  \\frac{1}{2} \\cdot 1{,}000 = 500.\n\\]\n\n",
    "The final answer is \\boxed{\\frac{17}{4}}.",
    "    if (n % 2 == 0):\n\t\treturn n//2  # 0x7f\r\n",
    "caf\u00e9 na\u00efve \u00fcber \u4e2d\u6587\u5b57\u3002 \u0433\u043e\u0434",
    "\u0627\u0644\u062c\u0628\u0631 \u0b95\u0bbf \u2211\u2264\u221e",
    "\U0001d465\u00b2 \U0001f600\U0001f44d\U0001f3fd \u200b\u00a0\ufeff\u2028",
)

# Bodies of steps, with the ends that models give them.
_BODIES = (
    ". Let the number of apples be $n$, so that $3n + 7 = 52$.",
    ": Substitute\n\\[\n x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}\n\\]",
    "\n\nThere are 1,024 ways to choose, and 27 of them fail!",
    " (checking) 12 * 12 = 144; is that right?",
    "\n- first case: $a > 0$\n- second case: $a \\le 0$",
    ". **Result:** the area is 36\u03c0",
    ". We get `f(2) = 8`, i.e. `8`",
    ". \u7b54\u6848\u662f 42\u3002",
    ". So $$\\sum_{k=1}^{10} k = 55$$",
    '. Hence, by symmetry, "both" roots are real (see above)',
    ".\n\n| x | y |\n|---|---|\n| 1 | 2 |",
    ". Therefore 7\u00b2 + 24\u00b2 = 25\u00b2\u2026",
)
_OPENINGS = (
    "Let us",
    "So",
    "the",
    "Next,",
    "1. First",
    "- a case",
    "$x$",
    "\\[",
    "**Check**",
    "(a)",
    '"No"',
    "42",
    "\u4e2d\u6587",
    " - indented",
)


def seams(segmentation: str) -> list[tuple[str, str]]:
    """Pairs (a, b) of texts that stand side by side where the segmentation cuts between two steps."""
    if segmentation == "prefix":
        ends = [body + end for body in _BODIES for end in ("\n\n", "\n", ".", "!", "?")]
        starts = [
            ("" if end.endswith("\n") else " ") + word[0].upper() + word[1:] + ", it follows."
            for end in ends
            for word in PREFIX_WORDS
        ]
        return list(zip([end for end in ends for _ in PREFIX_WORDS], starts))
    if segmentation == "line_break":
        return [(body + "\n\n", opening + " it follows.\n\n") for body in _BODIES for opening in _OPENINGS]
    steps = [(heading(segmentation, step), body) for step, body in enumerate(_BODIES * 9, start=1)]
    texts = [start + body + "\n\n" for start, body in steps]
    return list(zip(texts, texts[1:]))
