"""The reference pages, made from the program itself: each key of settings and rule files, and each function."""
