"""The WebShop text environment: pages, search, goals and reward of the original, in numpy and the standard library.

Read in this order: ``products`` (rows of the shop), ``goals``, ``search`` (BM25 as Lucene computes it), ``reward``,
``pages``, ``shop`` (sessions and actions, identical to the original), ``env`` (the Gymnasium class).
"""
