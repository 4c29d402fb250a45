"""The row of the real circulant code: a polynomial whose roots are neighbouring roots of unity.

`cos` and `sin` differ in their last bits between maths libraries. Here all is done in decimals of 60 digits,
whose arithmetic is defined to the digit, and rounded to a double once.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

_PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534"
)
_DIGITS = 60


def circulant_row(workers: int, stragglers: int) -> tuple[float, ...]:
    """s + 1 coefficients with sum 1: the polynomial with roots e^(2 pi i z / n), z = (n-s+1)/2 .. (n+s-1)/2.

    These z lie around n/2, so roots come in conjugate pairs (and -1, where s is odd) and all is real. One
    of n and s must be odd. The code's rows are the row rolled: what the polynomial's roots take from the
    circulant is its rank above n - s, and any n - s rows remain independent, as the roots are consecutive.
    """
    with localcontext(Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN)):
        found = [Decimal(1)]
        if stragglers % 2:
            found = _times(found, (Decimal(1), Decimal(1)))
        for root in range((workers - stragglers + 1) // 2, (workers + 1) // 2):
            found = _times(found, (Decimal(1), -2 * _cosine(2 * _PI * root / workers), Decimal(1)))
        total = Decimal(0)
        for value in found:
            total += value
        return tuple(float(value / total) for value in found)


def _times(one: list[Decimal], other: tuple[Decimal, ...]) -> list[Decimal]:
    product = [Decimal(0)] * (len(one) + len(other) - 1)
    for place, value in enumerate(one):
        for step, factor in enumerate(other):
            product[place + step] += value * factor
    return product


def _cosine(angle: Decimal) -> Decimal:
    """cos of an angle within +-4, by its series: some digits are lost to cancellation, 50 are left."""
    term, total, order = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal(10) ** -_DIGITS:
        order += 2
        term *= -angle * angle / (order * (order - 1))
        total += term
    return total
