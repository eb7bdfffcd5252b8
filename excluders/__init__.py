"""Which gallery images an evaluation ignores for a query: one rule a file, chosen with --excluder.

Contract: `Excluder(gallery_fids: Sequence[str])(query_fids: Sequence[str]) -> bool [Q, G]`, True
where this gallery image is ignored for this query: it counts neither as a match nor as a mistake.
Both calls raise common.UserError for a fid that they cannot parse.

A module with `BY_FILE = True` compares files, not what is in their names: where their folder is
known, it is given real paths, without links, in place of fids.

A module with `BY_COLUMN = True` is given (pid, camera) of each image in place of its fid, as the
columns of the CSV have them.

An excluder that ignores some gallery images for every query has `junk`, bool [G], True for these.

An excluder that reads cameras also has `keys(fids) -> [(pid, camera), ...]`, for --multi_query.
"""
