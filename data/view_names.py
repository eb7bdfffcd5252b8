"""Names of the views of an image that embed.py makes: the original's `augmentation_types`."""

FIVE_CROPS = ("center", "top_left", "top_right", "bottom_left", "bottom_right")


def view_names(flip: bool, crop: str | None) -> list[str]:
    """Names of the A views in their order; see data.augment.Views."""
    sides = ("original", "original_flip") if flip else ("original",)
    crops = FIVE_CROPS if crop == "five" else (crop or "resize",)
    return [f"{side}_{crop}" for side in sides for crop in crops]
