"""The compute frontier: for the operations that can be paid, which schedule of passes ends with the lowest loss?"""
