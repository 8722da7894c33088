"""Architecture search: spaces, cost, controllers, and studies that train what they propose.

A space is declared data (`space`, `spaces`); a point of it is a tuple of tokens.
"""
