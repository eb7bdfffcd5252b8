"""Only the query image itself is ignored, for queries that are a part of the gallery.

Fids may be anything; no cameras are read.
"""

from excluders._same import Same

Excluder = Same
