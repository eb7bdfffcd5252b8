"""Embeddings in, figures out; NumPy only.

from data import dataset
from evaluation import Embedded, Options, evaluate

query = Embedded(dataset.load("query.csv"), query_embs)
gallery = Embedded(dataset.load("gallery.csv"), gallery_embs)
results = evaluate(query, gallery, Options(metric="euclidean", excluder="market1501"))
print(results.mAP, results.top(1))
results.per_query()  # a pandas DataFrame
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation.pipeline import Embedded, Options, Results, evaluate

__all__ = ["Embedded", "Options", "Results", "evaluate"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation import pipeline

    return getattr(pipeline, name)
