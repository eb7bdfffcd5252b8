"""What is changed in an image: random flips, crops, distortions and holes for training, and the
views that are embedded.

Sizes are (height, width) in pixels. All randomness is drawn by `draws`, a pure function of
(seed, iteration), before any image is read.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import distortions, trivial_augment
from data.view_names import FIVE_CROPS, view_names

# The third stream of random numbers, after the two of data/pk_sampler.py, and those within it that
# came later: what is drawn for one kind of augmentation does not depend on which others are on.
_AUGMENTATIONS = 2
_COLORS, _HOLES, _PARTS, _ANGLES, _TRIVIAL, _GRAY, _BLUR = range(1, 8)

_MEAN_PIXEL = (123.68, 116.78, 103.94)  # of ImageNet, as nets/resnet_v1_50.py subtracts it
_ERASING_TRIES = 10
# Of SimCLR (arXiv:2002.05709, appendix A), in images of 224 pixels.
_SIGMAS, _SIDE_OF_SIGMAS = (0.1, 2.0), 224


def flip(image: tf.Tensor) -> tf.Tensor:
    """Mirror left and right: [..., W, 3] -> the same shape."""
    return tf.reverse(image, axis=[-2])


def crop(image: tf.Tensor, top: tf.Tensor, left: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[H, W, 3] -> [*size, 3], from row `top` and column `left` on."""
    cropped = tf.slice(image, [top, left, 0], [*size, 3])
    cropped.set_shape([*size, 3])
    return cropped


# ------------------------------------------------------------------------- what is drawn


class Augmentation(NamedTuple):
    """What is done to the images of a training.

    Attributes:
        net_size: of the network's input.
        pre_crop_size: what images are resized to before a random crop of net_size; None: to
            net_size.
        random_flip: mirror half of the images.
        pad_crop: black pixels that are added at each side before a random crop.
        color_jitter: brightness, contrast and saturation are changed by factors of 1 ± this.
        random_erasing: the probability that a rectangle of an image is erased.
        least_area: of a random part of the image that is resized to net_size in its place, as a
            share of its area; 0 takes the whole image.
        aspect: factor by which the shape of such a part differs from that of the image, at most.
        rotation: images are rotated by up to so many degrees.
        trivial_augment, gray, blur: the probability of each for an image.
    """

    net_size: tuple[int, int]
    pre_crop_size: tuple[int, int] | None = None
    random_flip: bool = False
    pad_crop: int = 0
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    least_area: float = 0.0
    aspect: float = 1.0
    rotation: float = 0.0
    trivial_augment: float = 0.0
    gray: float = 0.0
    blur: float = 0.0

    @property
    def resized(self) -> tuple[int, int]:
        """The size that images are resized to, before they are padded and cropped."""
        return self.pre_crop_size or self.net_size

    @property
    def needed(self) -> tuple[int, int]:
        """The size of a whole image of which no part has to be enlarged."""
        if not self.least_area:
            return self.resized
        # `parts` draws no shorter side than this, as a share of the image's.
        shortest = math.sqrt(self.least_area * max(1 / self.aspect, self.least_area))
        return math.ceil(self.net_size[0] / shortest), math.ceil(self.net_size[1] / shortest)

    @property
    def slack(self) -> tuple[int, int]:
        """Pixels by which padded images are higher and wider than their crops."""
        height = self.resized[0] + 2 * self.pad_crop - self.net_size[0]
        width = self.resized[1] + 2 * self.pad_crop - self.net_size[1]
        return height, width


def flips_and_corners(
    seed: int, iteration: int, count: int, slack: tuple[int, int], random_flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How each image of one batch is flipped and cropped.

    Args:
        count: images in the batch, B.
        slack: pixels by which the images are higher and wider than a crop; (0, 0) for no random
            crop.
        random_flip: whether half of the images, at random, are mirrored.

    Returns:
        flips bool [B], and corners int32 [B, 2], the top left pixel of each crop, 0 to slack.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration])
    flips = rng.random(count) < 0.5
    corners = rng.integers(0, slack, size=(count, 2), endpoint=True, dtype=np.int32)
    return flips & random_flip, corners


def color_factors(seed: int, iteration: int, count: int, strength: float) -> np.ndarray:
    """Factors of brightness, contrast and saturation for each image of one batch.

    Returns:
        float32 [B, 3], 1 ± strength.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _COLORS])
    return rng.uniform(1 - strength, 1 + strength, (count, 3)).astype(np.float32)


def holes(
    seed: int, iteration: int, count: int, probability: float, size: tuple[int, int]
) -> np.ndarray:
    """What is erased of each image of one batch.

    After Zhong et al. 2017, "Random Erasing Data Augmentation", algorithm 1: a rectangle of 0.02 to
    0.4 of the image's area, 0.3 to 3.33 times as high as wide, anywhere within the image. One that
    does not fit is drawn again, up to _ERASING_TRIES times.

    Args:
        probability: that something of an image is erased, 0..1.
        size: of the images.

    Returns:
        int32 [B, 4], the first row and column of each rectangle and the first beyond it: the same
        where nothing is erased.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _HOLES])
    erased = rng.random(count) < probability
    area = rng.uniform(0.02, 0.4, (_ERASING_TRIES, count)) * size[0] * size[1]
    aspect = rng.uniform(0.3, 1 / 0.3, (_ERASING_TRIES, count))
    # [height or width, try, image]
    sides = np.rint(np.sqrt([area * aspect, area / aspect]))
    sides = np.maximum(sides, 1).astype(np.int32)
    fits = (sides[0] < size[0]) & (sides[1] < size[1])
    first_fit = fits.argmax(axis=0)
    sides = sides[:, first_fit, np.arange(count)].T
    sides = np.where((erased & fits.any(axis=0))[:, None], sides, 0)
    corners = rng.integers(0, size - sides, endpoint=True, dtype=np.int32)
    return np.concatenate([corners, corners + sides], axis=1)


def parts(seed: int, iteration: int, count: int, least_area: float, aspect: float) -> np.ndarray:
    """Which part of each image of one batch is taken, whatever its size.

    After Szegedy et al. 2015, "Going Deeper with Convolutions", section 6, but the shape is drawn
    relative to that of the image, and among those that fit.

    Args:
        least_area: of a part, as a share of the image's; areas are uniform from there to 1.
        aspect: its height by its width, relative to those of the image, is between 1/aspect and
            aspect; its logarithm is uniform.

    Returns:
        float32 [B, 4], the top, left, bottom and right of each part, 0..1 of the image's sides.
    """
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _PARTS])
    area = rng.uniform(least_area, 1, count)
    most = np.minimum(np.log(aspect), -np.log(area))  # a longer part would not fit
    shape = np.exp(most * rng.uniform(-1, 1, count))
    sides = np.sqrt([area * shape, area / shape]).T
    corners = (1 - sides) * rng.random((count, 2))
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def sigmas(
    seed: int, iteration: int, count: int, probability: float, size: tuple[int, int]
) -> np.ndarray:
    """How far each image of one batch is blurred, in pixels of `size`: float32 [B]; 0: not."""
    rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _BLUR])
    blurred = rng.random(count) < probability
    scale = max(size) / _SIDE_OF_SIGMAS
    return np.where(blurred, scale * rng.uniform(*_SIGMAS, count), 0).astype(np.float32)


def _distortions(
    seed: int, iteration: int, count: int, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """What is drawn for the functions of data/distortions.py and data/trivial_augment.py."""
    drawn = {}
    size = augmentation.net_size
    angles, shears, shifts = np.zeros(count), np.zeros((count, 2)), np.zeros((count, 2))
    if augmentation.trivial_augment:
        rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _TRIVIAL])
        trivial = trivial_augment.draw(rng, count, augmentation.trivial_augment)
        drawn["operations"] = trivial.operations
        drawn["amounts"] = trivial_augment.amounts(trivial)
        angles, shears, shifts = trivial_augment.geometry(trivial, size)
    if augmentation.rotation:
        rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _ANGLES])
        angles = angles + rng.uniform(-augmentation.rotation, augmentation.rotation, count)
    if augmentation.rotation or augmentation.trivial_augment:
        drawn["matrices"] = distortions.inverse_affine(size, angles, shears, shifts)
    if augmentation.gray:
        rng = np.random.default_rng([_AUGMENTATIONS, seed, iteration, _GRAY])
        drawn["gray"] = rng.random(count) < augmentation.gray
    if augmentation.blur:
        drawn["sigmas"] = sigmas(seed, iteration, count, augmentation.blur, size)
    return drawn


def draws(
    seed: int, iteration: int, count: int, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """All that is drawn for one batch of `count` images, B.

    Returns:
        "flips" and "corners" as of flips_and_corners, and, where the augmentation asks for them,
        "parts" as of parts, "colors" as of color_factors, "holes" as of holes, and what `finish`
        needs for distortions.
    """
    flips, corners = flips_and_corners(
        seed, iteration, count, augmentation.slack, augmentation.random_flip
    )
    drawn = {"flips": flips, "corners": corners}
    if augmentation.least_area:
        drawn["parts"] = parts(seed, iteration, count, augmentation.least_area, augmentation.aspect)
    if augmentation.color_jitter:
        drawn["colors"] = color_factors(seed, iteration, count, augmentation.color_jitter)
    if augmentation.random_erasing:
        drawn["holes"] = holes(
            seed, iteration, count, augmentation.random_erasing, augmentation.net_size
        )
    return drawn | _distortions(seed, iteration, count, augmentation)


# ------------------------------------------------------------------------- what is done


def take_part(image: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """A part of an image, to whole pixels and at least one: [H, W, 3] -> [h, w, 3].

    Args:
        part: float32 [4], as from `parts`; 0, 0, 1, 1 is the whole image.
    """
    size = tf.shape(image)[:2]
    place = tf.cast(tf.round(part * tf.cast(tf.tile(size, [2]), tf.float32)), tf.int32)
    start = tf.minimum(place[:2], size - 1)
    sides = tf.maximum(place[2:] - start, 1)
    return tf.slice(image, tf.pad(start, [[0, 1]]), tf.concat([sides, [3]], axis=0))


def pad_and_crop(
    image: tf.Tensor, flipped: tf.Tensor, corner: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Pad, crop and flip one image: float32 [*augmentation.resized, 3] -> [*net_size, 3].

    Args:
        flipped, corner: bool [] and int32 [2], as from flips_and_corners. The corner is one of the
            flipped image.
    """
    if augmentation.pad_crop:
        padding = [augmentation.pad_crop] * 2
        image = tf.pad(image, [padding, padding, [0, 0]])
    top = corner[0]
    left = tf.where(flipped, augmentation.slack[1] - corner[1], corner[1])
    image = crop(image, top, left, augmentation.net_size)
    return tf.cond(flipped, lambda: flip(image), lambda: image)


def resize_and_crop(
    pixels: tf.Tensor,
    sizes: tf.Tensor,
    flips: tf.Tensor,
    corners: tf.Tensor,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Resize, pad, crop and flip a whole batch at once, whatever its sizes: for an accelerator.

    The resize is that of images.resize: bilinear, sampled at i · old/new.

    Args:
        pixels: uint8 [n, 3], those of all images, one image after the other.
        sizes: int32 [B, 2], the images' heights and widths.
        flips, corners: bool [B] and int32 [B, 2], as from flips_and_corners.

    Returns:
        float32 [B, *net_size, 3].
    """
    columns_flipped = flips[:, None]
    top, bottom, down, y_inside = _neighbors(sizes, corners, augmentation, axis=0, flipped=False)
    left, right, across, x_inside = _neighbors(
        sizes, corners, augmentation, axis=1, flipped=columns_flipped
    )
    first_pixel = tf.cumsum(tf.reduce_prod(sizes, axis=1), exclusive=True)[:, None]

    def line(y):
        start = (first_pixel + y * sizes[:, 1, None])[:, :, None]
        before = tf.cast(tf.gather(pixels, start + left[:, None, :]), tf.float32)
        after = tf.cast(tf.gather(pixels, start + right[:, None, :]), tf.float32)
        return before + (after - before) * across[:, None, :, None]

    upper = line(top)
    lower = line(bottom)
    images = upper + (lower - upper) * down[:, :, None, None]
    if augmentation.pad_crop:
        inside = y_inside[:, :, None] & x_inside[:, None, :]
        images = tf.where(inside[..., None], images, 0.0)
    return images


def _neighbors(
    sizes: tf.Tensor,
    corners: tf.Tensor,
    augmentation: Augmentation,
    axis: int,
    flipped: tf.Tensor | bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where the rows (axis 0) or columns (axis 1) of crops lie in their images.

    Returns:
        the one before, int32, the one after, int32, how far between them, float32 0..1, and
        whether it is one of the image and not of the padding, bool: [B, length of the crop] each.
    """
    old = sizes[:, axis, None]
    new = augmentation.resized[axis]
    place = corners[:, axis, None] - augmentation.pad_crop + tf.range(augmentation.net_size[axis])
    place = tf.where(flipped, new - 1 - place, place)
    scaled = tf.cast(place, tf.float32) * (tf.cast(old, tf.float32) / new)
    before = tf.clip_by_value(tf.cast(scaled, tf.int32), 0, old - 1)
    after = tf.minimum(before + 1, old - 1)
    part = scaled - tf.cast(before, tf.float32)
    inside = (place >= 0) & (place < new)
    return before, after, part, inside


def recolor(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Change brightness, then contrast, then saturation.

    Contrast is the distance from the image's mean gray, saturation that from each pixel's gray.

    Args:
        images: float32 [B, H, W, 3], 0..255, as what is returned.
        factors: float32 [B, 3], as from color_factors.
    """
    brightness, contrast, saturation = tf.unstack(factors, axis=1)
    images = distortions.brightness(images, brightness)
    images = distortions.contrast(images, contrast)
    return distortions.saturation(images, saturation)


def erase(images: tf.Tensor, rectangles: tf.Tensor) -> tf.Tensor:
    """Fill a rectangle of each image with ImageNet's mean pixel.

    Args:
        images: float32 [B, H, W, 3], as what is returned.
        rectangles: int32 [B, 4], as from holes.
    """
    top, left, bottom, right = tf.unstack(rectangles[:, :, None], axis=1)
    y = tf.range(images.shape[1])
    x = tf.range(images.shape[2])
    rows = (top <= y) & (y < bottom)
    columns = (left <= x) & (x < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return tf.where(inside[..., None], tf.constant(_MEAN_PIXEL), images)


def finish(batch: dict[str, tf.Tensor], augmentation: Augmentation) -> tf.Tensor:
    """The last step of loading a batch. Returns: float32 RGB 0..255 [B, *net_size, 3].

    Args:
        batch: what images.training_batches gives where it is not to finish.
    """
    images = batch.get("images")
    if images is None:
        images = resize_and_crop(
            batch["pixels"], batch["sizes"], batch["flips"], batch["corners"], augmentation
        )
    if "matrices" in batch:
        images = distortions.warp(images, batch["matrices"])
    if "colors" in batch:
        images = recolor(images, batch["colors"])
    if "operations" in batch:
        images = trivial_augment.recolor(images, batch["operations"], batch["amounts"])
    if "gray" in batch:
        images = distortions.some_gray(images, batch["gray"])
    if "sigmas" in batch:
        images = distortions.blur(images, batch["sigmas"])
    if "holes" in batch:
        images = erase(images, batch["holes"])
    return images


# ------------------------------------------------------------------------- what is embedded


class Views(NamedTuple):
    """Which views of an image are embedded for it, A of them.

    Attributes:
        net_size: of the network's input.
        flip: also the mirrored image.
        crop: "center" and "five" take crops of net_size; None and "avgpool" the whole image.
    """

    net_size: tuple[int, int]
    flip: bool = False
    crop: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the A views in their order: the original's `augmentation_types`."""
        return view_names(self.flip, self.crop)

    def take(self, images: tf.Tensor) -> tf.Tensor:
        """The views of images, in the order of `names`.

        Args:
            images: float32 [..., H, W, 3], resized: to the pre_crop size with a crop, else to
                net_size.

        Returns:
            float32 [..., A, *size, 3]; size is net_size, but with "avgpool" that of the images.
        """
        sides = [images, flip(images)] if self.flip else [images]
        if self.crop not in ("center", "five"):
            return tf.stack(sides, axis=-4)
        count = len(FIVE_CROPS) if self.crop == "five" else 1
        crops = [five_crops(side, self.net_size)[..., :count, :, :, :] for side in sides]
        return tf.concat(crops, axis=-4)


def five_crops(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[..., H, W, 3] with H, W known -> [..., 5, *size, 3], in the order of FIVE_CROPS."""
    bottom = image.shape[-3] - size[0]
    right = image.shape[-2] - size[1]
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [image[..., top : top + size[0], left : left + size[1], :] for top, left in corners]
    return tf.stack(crops, axis=-4)
