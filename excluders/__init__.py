"""Which gallery images an evaluation ignores for a query, one rule a file, chosen with --excluder
by its name.

Contract: `Excluder(gallery_fids: Sequence[str])(query_fids: Sequence[str]) -> bool [Q, G]`, True =
    ignore this
gallery image for this query: it counts neither as a match nor as a mistake. Both raise
common.UserError for a fid that they cannot parse. One that reads cameras also has `keys(fids) ->
[(pid, camera), ...]`, for --multi_query.
"""
