"""Bundles of binaries that someone else built.

    source → gathered tree → what is needed → layout → recipe and bundle file → the pipeline

A source is fetched and unpacked (``archives``, ``packages``, ``picked``), the libraries that its programs
load are looked for in it and in the bundles that it may use (``needs``), everything gets a place below the
prefix (``layout``), and what still names the host is listed (``tied``).  The outcome is written as a
recipe and a bundle file (``files``): from there on an adopted bundle is like any other.
"""
