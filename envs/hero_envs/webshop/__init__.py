"""The WebShop text environment: the original's pages, search, goals and reward in numpy and the standard library.

Read in this order: ``products`` (rows of the shop), ``goals``, ``search`` (BM25 as Lucene computes it), ``reward``,
``pages``, ``shop`` (the page machine, step for step the original), ``env`` (the Gymnasium class around it).
"""
