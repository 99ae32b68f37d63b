"""The tests: each is named as the sentence it proves."""
