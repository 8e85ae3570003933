"""The second opinion on money: the rules of docs/designs/0004-money.md, written a second time.

It imports nothing of the platform, so that no mistake is made twice: own facts, own reading of time, exact
fractions, and a sweep over every moment at which anything changes. It is slow and plain on purpose.
"""
