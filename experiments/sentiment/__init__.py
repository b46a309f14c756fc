"""Sentiment: whether a film review praises or blames."""
