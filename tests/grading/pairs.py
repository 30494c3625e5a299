"""Pairs of an answer and an accepted form, in many dresses: those that agree and those that do not."""

AGREE = r"""
5 dollars | 5
1\,234 | 1234
73. | 73
**73** | 73
1 1/2 | 3/2
2\pi | 2*pi
x^2 | x**2
1.5e3 | 1500
Yes. | yes
true | True
B) | B
C. Paris | C
50% | 50
0.5 | 50%
50\% | 0.5
$5.00 | 5
\$5 | 5
1,234 | 1234
1 234 | 1234
5 km | 5
5\text{ cm} | 5
5 | 5 cm
90^\circ | 90
90° | 90^{\circ}
90 degrees | 90^\circ
\frac12 | 0.5
\dfrac{1}{2} | \frac{1}{2}
\tfrac{3}{4} | 0.75
(1, 2) | (1,2)
\{2, 1\} | \{1,2\}
1, 2 | 2, 1
2 and 1 | 1, 2
x=5 | 5
x = 5 | x=5
\text{(B)} | B
(B) | B
Option B | B
B: Paris | B
option (b) | B
\textbf{(B)}\ 42 | B
Answer: B | B
The correct answer is B | B
b | B
C | C. Paris
c) paris | C. Paris
C. Paris | Paris
-0 | 0
\infty | infinity
∞ | \infty
Infinity. | infinity
Infinity | \infty
−5 | -5
“yes” | yes
3 1/2 | 7/2
3\frac{1}{2} | 3.5
\frac{1}{2^{98}} | 1/2^{98}
1/2^{98} | 2^{-98}
\sqrt{12} | 2\sqrt{3}
2sqrt(3) | \sqrt{12}
sqrt(3)/2 | \frac{\sqrt{3}}{2}
√3 | \sqrt{3}
2√3 | 2\sqrt3
π/2 | \frac{\pi}{2}
pi/2 | \frac{\pi}{2}
x² + 1 | x^2+1
(x+1)^2 | x^2+2x+1
(x-1)(x+1) | x^2-1
x(x+1) | x^2+x
e^(2x) | e^{2x}
2^10 | 1024
y = 2x + 3 | 2x+3
y=2x+3 | y = 3 + 2x
(-\infty, 2) \cup (3, \infty) | (-\infty,2)\cup(3,\infty)
x < 2 \text{ or } x > 3 | (-\infty,2)\cup(3,\infty)
(-inf, 2) U (3, inf) | (-\infty,2)\cup(3,\infty)
[1, 2) | [1,2)
x \in [1,2) | [1,2)
3 \pm 2 \sqrt{2} | 3+2\sqrt2, 3-2\sqrt2
3 \pm 2\sqrt{2} | 3 \pm 2 \sqrt{2}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} | \begin{pmatrix} -\frac13 \\ \frac23 \\ \frac53 \end{pmatrix}
864 \mbox{ inches}^2 | 864
864 square inches | 864 \mbox{ inches}^2
480 + 480\sqrt{3}\text{ feet} | 480+480\sqrt3
12\pi \text{ square feet} | 12\pi
164 \pi \mbox{ square feet} | 164\pi
\text{Evelyn} | evelyn
Monday | \text{Monday}
\text{even} | even
the Paris | Paris
Current; Non-current | Non-current; Current
Current and Non-current | Current; Non-current
2019, 2018 | 2019; 2018
2019 and 2018 | 2019; 2018
$24,020 and $23,695 | $24,020; $23,695
-85,743 | (85,743)
$1,171 | 1171
0.5 million | $0.5 million
500,000 | $0.5 million
$500,000 | $0.5 million
\$187.12 | 187.12
4343_{6} | 4343_6
4343 | 4343_6
10,080 | 10,\!080
3:00 PM | 3 pm
15:00 | 3:00 p.m.
July 4, 1776 | 4 July 1776
Dec 31, 2019 | December 31, 2019
Yes, because it helps | yes
No - the effect was small | no
True: all of them | true
seven | 7
There are 5 apples | 5
The total is 73 dollars | 73
approximately 3.14 | 3.14
≈ 3.14 | 3.14
5 apples | 5 apple
100 cm | 1 m
50 cents | $0.50
60 mph | 60 miles per hour
36 cm² | 36 \text{ cm}^2
$x = 5$ | 5
\(x = 5\) | 5
\[ 5 \] | 5
$$5$$ | 5
$5$ | 5
`5` | 5
*5* | 5
__5__ | 5
\boxed{5} | 5
5.0 | 5
.5 | 0.5
5. | 5
007 | 7
1e-7 | 0.0000001
1 \times 10^{-7} | 0.0000001
3 × 10^8 | 300000000
6.02*10^23 | 6.02e23
2/4 | 1/2
-\frac{1}{3} | \frac{-1}{3}
-1/3 | \frac{1}{-3}
0.333333 | 1/3
0.\overline{3} | 1/3
2x | 2*x
2 x | 2x
a b c | abc
3x - 2y | -2y + 3x
\sin(x) | \sin x
sin(x) | \sin x
ln 3 | \ln 3
\log 4 + 1/2 | \frac{1}{2} + \log 4
(n+1)! - (n-1)! | (n + 1)! - (n - 1)!
5! | 120
\binom{5}{2} | 10
1 - 12i | 1-12i
-2 + 7i | 7i-2
f(x) = x | f(x)=x
(x, y) = (7, 5) | (7,5)
ACD | A, C, D
A and C | A,C
\text{A,C} | A, C
A, C, D | ACD
73 (dollars) | 73
Paris, France | paris france
New York City. | New York City
1.0 | 1
100 | 1e2
1234567890123456789012345678901234567890 | 1234567890123456789012345678901234567890.0
\frac{7}{2} | 3.5
\left(\frac{3}{2}, -13\right) | (1.5, -13)
\left\{1,2\right\} | \{1,2\}
{1, 2} | \{1,2\}
\mathbf{2340} | 2340
n \geq 4 | n >= 4
k \le 3 | 3 \ge k
8,1,-1,-8 | -8, -1, 1, 8
x = 1 or x = 2 | 1, 2
$\frac{1}{2}$ | 1/2
1/2 cup | 1/2
½ | 0.5
20 \% | 20\%
20 percent | 20\%
12 students | 12
12\text{ students} | 12 students
\text{12 students} | 12
25m | 25
25 m | 25 meters
100 kg | 100
\$1,234.50 | 1234.5
USD 5 | $5
5 USD | 5
5 euros | 5
v_2 = \frac{3}{\sqrt{5}}v_1 | v_2=\frac{3v_1}{\sqrt5}
\text{C) } \rho g H < P < \rho g h | C
I | I
maybe | Maybe
MAYBE. | maybe
{73} | 73
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
\cos^2 x | \cos^2(x)
1 + 2 + 3 | 6
2^{1011} | 2^{1011}
3 : 4 | 3:4
0 | 0.0
3 hours | 3 hours
120 minutes | 2 hours
one | 1
-5^\circ | -5
2 \text{ euros} | 2
y - 3 = 2(x - 1) | y = 2x + 1
x^2 + y^2 = 1 | y^2 + x^2 = 1
2x + y = 3 | y + 2x = 3
A(n) = n | A(n)=n
100 \text{ m} | 100
\angle A = 30^\circ | 30
30^{\circ}C | 30
$\text{Paris}$ | Paris
"Paris" | Paris
‘Paris’ | Paris
1/3 + 1/6 | 1/2
2 + \sqrt{3} | \sqrt3+2
\sqrt[3]{2} | 2^{1/3}
\frac{11+9a}{20} | (9a+11)/20
15x-80 | 15x - 80
D | (D)
\textbf{D} | D
\boxed{\text{D}} | D
"""

DISAGREE = r"""
silent | listen
no | on
1/2^{98} | 1/2^{99}
0.0000001 | 0.0000002
5 cm | 5 m
5 dollars | 5 euros
(2, 1) | (1,2)
\{1,2\} | \{1,3\}
x=5 | y=5
6 | 5
50% | 5
0.5 | 5%
50% | 0.05
C. Paris | B
B | C
Paris | C
A, C | A, D
[1,2) | [1,2]
(1,2) | [1,2]
5 or 6 | 5
5, 6 | 5
at least 5 | 5
more than 5 | 5
not 5 | 5
yes | no
Yes and no | yes
maybe | yes
123 | 1234
1234567890123456789012345678901234567890 | 1234567890123456789012345678901234567891
1.0000000000000000001 | 1
x^2 | x^3
x+1 | x-1
2\pi | \pi
-5 | 5
5 | -5
3/2 | 2/3
1 1/2 | 11/2
1 1/2 | 1/2
12 | 1.2
top | pot
stressed | desserts
was | saw
listen + 1 | silent + 1
AB | BA
5 million | 5
$5 million | $5 billion
3 and a half | 3
\infty | -\infty
\infty | 1000000
(1,2,3) | (1,2)
1,2,3 | 1,2
x^2+y^2=1 | 1
1 | x^2+y^2=1
n | N
3:00 AM | 3:00 PM
July 4, 1776 | July 5, 1776
4343_6 | 4343_7
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\begin{pmatrix} 1 & 2 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
1/2^{98} x | 1/2^{99} x
(1/2^{98}, 1) | (1/2^{99}, 1)
10^{-30} | 10^{-31}
10^{-30} | 0
0 | 10^{-30}
e^{-100} | 0
\sqrt{2} | 1.41
\pi | 3.14
3.14 | \pi
22/7 | \pi
5 km | 5 kg
5 apples | 5 oranges
n+1 | n
2n | n^2
 | 5
... | 5
\{ | 5
x > 3 | x < 3
x > 3 | x \ge 3
(-\infty,2) | (-\infty,2]
Paris | London
Parisian | Paris
the | a
\sin x | \cos x
10 | 10!
2^{10} | 2^{11}
100! | 99!
Current; Non-current | Current
2019; 2018 | 2019; 2017
0.1 | 0.10000001
1e400 | 1e401
5x | 5
x | 5
BD | BC
B or C | B
3 \pm 2 | 3 + 2
1-5 years | 1-6 years
true | false
Monday | Tuesday
0.333 | 1/3
0.333334 | 1/3
5 \text{ m}^2 | 5 \text{ m}
9 inches | 9 feet
I am not sure | yes
x = 2, y = 3 | x = 3, y = 2
(x,y) = (2,3) | (3,2)
God | dog
evil | live
5 percent | 5 dollars
7 and 8 | 78
1, 234 | 1
12 34 | 1234
2 3 | 6
C. London | C. Paris
"""


def pairs(block: str) -> list[tuple[str, str]]:
    """The pairs of a block, one a line, parted by the last ` | `."""
    lines = block.strip("\n").split("\n")
    return [tuple(part.strip() for part in line.rsplit(" | ", 1)) for line in lines]
