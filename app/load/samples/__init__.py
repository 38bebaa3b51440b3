"""Small samples of public traces, and the script that cuts them from the whole ones.

`python -m tailbudget.app.load.samples FOLDER` reads the traces as published: Azure's two hours of 2023, Mooncake's
conversation trace (FAST'25) and the lengths of ShareGPT as Etalon counted them.
"""
