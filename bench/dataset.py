"""Writes a data set's text into a folder: ``python dataset.py FOLDER NAME CONFIG SPLIT COLUMN``, empty for a default.

The answer is the line that starts with KIVI_TEXT, a JSON object; with a key ``error`` where there is no such text.
"""

import json
import sys
from pathlib import Path

from kivi_bench import dataset

if __name__ == "__main__":
    folder, name, config, split, column = sys.argv[1:]
    try:
        answer = dataset.save_text(dataset.load(name, config or None, split), column or None, Path(folder))
    except dataset.DatasetError as error:
        answer = {"error": error.kind, "message": str(error), "hint": error.hint}
    print("KIVI_TEXT " + json.dumps(answer), flush=True)
