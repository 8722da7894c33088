"""The embedded photos."""

import numpy as np

from effnets.data import photos, sources


def test_embedded_photos():
  tiles = photos.Photos()
  assert isinstance(tiles, sources.Source) and len(tiles) == 12
  images = np.stack([tiles[i]["image"] for i in range(12)])
  assert images.shape == (12, 224, 224, 3) and images.dtype == np.uint8
  assert len({image.tobytes() for image in images}) == 12
  # The first three rows of tiles overlap: 640 pixels hold three of 224 that begin 208 apart.
  np.testing.assert_array_equal(images[0][:, 208:], images[1][:, :16])
