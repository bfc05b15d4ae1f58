"""Bad input of every kind: `CASES` of the modules here, all tried by `test_cases.py`."""
