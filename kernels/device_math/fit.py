"""Fits the polynomials of math.c: weighted least squares at Chebyshev nodes in high precision, rounded to f32 from the
lowest power up, the rest fitted again after each rounding. Prints each as a C array.

    pip install mpmath==1.3.0 numpy scipy && python fit.py
"""

import mpmath as mp
import numpy as np

mp.mp.prec = 120


def fit(f, low, high, powers, weight=lambda x, y: 1 / y, nodes=200, rounded=True, held=()):
    """Coefficients of sum c_p x^p ~ f(x) on [low, high]; `held` gives powers whose coefficients are known."""
    points = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * nodes)) for k in range(nodes)]
    values = [f(x) for x in points]
    weights = [weight(x, y) for x, y in zip(points, values, strict=True)]
    known = dict(held)
    while len(known) < len(powers) + len(held):
        free = [p for p in powers if p not in known]
        rows = mp.matrix([[w * x**p for p in free] for x, w in zip(points, weights, strict=True)])
        rest = [y - sum(c * x**p for p, c in known.items()) for x, y in zip(points, values, strict=True)]
        right = mp.matrix([w * r for w, r in zip(weights, rest, strict=True)])
        solved = mp.lu_solve(rows.T * rows, rows.T * right)
        if not rounded:
            known |= dict(zip(free, solved, strict=True))
            break
        known[free[0]] = mp.mpf(float(np.float32(float(solved[0]))))
    worst = max(abs(w * (y - sum(c * x**p for p, c in known.items()))) for x, y, w in zip(points, values, weights, strict=True))
    return [known[p] for p in powers], worst


def show(name, found):
    coefficients, worst = found
    print(f"/* {name}: {mp.nstr(worst, 3)} */ {{", ", ".join(f"{float(c).hex()}f" for c in coefficients), "}")


half = mp.log(2) / 2
one = mp.mpf(1)
# e^r = 1 + r + r² P(r)
show("EXP", fit(lambda r: mp.expm1(r) / r**2 - 1 / r if r else mp.mpf(0.5), -half, half, range(5), lambda r, _: r**2))
# log(1 + f) = f - f²/2 + f³ P(f) on [1/sqrt 2 - 1, sqrt 2 - 1]
show("LOG", fit(lambda f: (mp.log1p(f) - f + f**2 / 2) / f**3, mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, range(9),
                lambda f, _: f**3 / mp.log1p(f)))
# tanh x = x + x³ P(x²) below 0.55
show("TANH", fit(lambda z: (mp.tanh(mp.sqrt(z)) - mp.sqrt(z)) / mp.sqrt(z) ** 3, mp.mpf("1e-8"), mp.mpf("0.3025"), range(6),
                 lambda z, _: z))
# erf x = x + x P(x²) below 1
show("ERF_SMALL", fit(lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1, mp.mpf("1e-8"), one, range(7), lambda z, _: 1))
# erf x = 1 - exp(-x Q(x)) from 1 to 4
show("ERF_LARGE", fit(lambda x: -mp.log(mp.erfc(x)) / x, one, mp.mpf(4), range(9), lambda x, _: x * mp.erfc(x) / mp.erf(x)))
# sin r = r + r³ S(r²), cos r = 1 - r²/2 + r⁴ C(r²) on [-pi/4, pi/4]
quarter = (mp.pi / 4) ** 2
show("SIN", fit(lambda z: (mp.sin(mp.sqrt(z)) - mp.sqrt(z)) / mp.sqrt(z) ** 3, mp.mpf("1e-8"), quarter, range(4),
                lambda z, _: z))
show("COS", fit(lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, mp.mpf("1e-8"), quarter, range(3), lambda z, _: z**2))
