"""talr: fine-tune on a domain, measure what was forgotten, ship the best trade-off."""

__version__ = "0.1.0"
