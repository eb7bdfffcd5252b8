"""Only the query image itself is ignored: queries that are a part of the gallery, no cameras, any
fid.
"""

from excluders._same import Same

Excluder = Same
