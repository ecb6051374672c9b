"""Regions: masks become objects with measures and outlines, for whole images and tile by tile.

Worked example: a mask of 5 × 4 pixels, carried through every type that it becomes. x goes to the
right, y down. prob_u8 is 200 in the mask, but 255 at (x 3, y 2). The tests run all lines below.

               mask         labels + 1       parts
         x 0 1 2 3 4
    y 0    # # . . .        1 1 0 0 0      0 0 . . .
      1    . . . . #        0 0 0 0 2      . . . . 1
      2    # . # # .        3 0 2 2 0      2 . 3 3 .
      3    # . . . .        3 0 0 0 0      2 . . . .

>>> import numpy as np
>>> mask = np.array([list("##..."), list("....#"), list("#.##."), list("#....")]) == "#"
>>> prob_u8 = np.where(mask, 200, 0).astype(np.uint8)
>>> prob_u8[2, 3] = 255

1. Runs. `Runs.of_mask` finds the runs of pixels in each row: columns start to stop − 1.

>>> from unet_ray.imaging.regions.runs import Runs
>>> runs = Runs.of_mask(mask)
>>> list(zip(runs.row.tolist(), runs.start.tolist(), runs.stop.tolist()))
[(0, 0, 2), (1, 4, 5), (2, 0, 1), (2, 2, 4), (3, 0, 1)]

2. Components. Runs of neighbouring rows that meet, also at a corner, have the same label. Labels
are numbered by their first pixels in raster order. `unseparated` calls this and adds where each
pixel got its label from; `separate_touching`, for networks with markers, also splits components.

>>> upper, lower = runs.pairs(corners=True)
>>> list(zip(upper.tolist(), lower.tolist()))
[(1, 3), (2, 4)]
>>> runs.label.tolist()
[0, 1, 2, 1, 2]

3. Sums. `sum_pixels` adds up the pixels of each label, as integers, so that sums of pieces add up
exactly. Label 1 has the pixels (4, 1), (2, 2) and (3, 2).

>>> from unet_ray.imaging.regions.regions import find_regions, sum_pixels
>>> sums = sum_pixels(runs, prob_u8)
>>> sums.area.tolist(), sums.prob_u8_sum.tolist()
([2, 3, 2], [400, 655, 400])
>>> sums.x_sum.tolist(), sums.y_sum.tolist()
([1, 9, 0], [0, 5, 5])
>>> sums.first[1].tolist(), sums.bbox[1].tolist()
([1, 4], [2, 1, 5, 3])

4. Parts and sides. Each 4-connected part of a label gets its own polygon. Label 1 has the parts 1
and 3, which share only the vertex (4, 2). A side is a straight run of pixel edges between a part
and anything else: for part 0, y = 0 and y = 1 from x 0 to 2, then x = 2 and x = 0 from y 0 to 1.

>>> from unet_ray.imaging.regions.outlines import Parts
>>> parts = Parts.of(runs)
>>> parts.part.tolist(), parts.label.tolist()
([0, 1, 2, 3, 2], [0, 1, 2, 1])
>>> sides = parts.sides()
>>> sides = sides.of(sides.part == 0)
>>> list(zip(sides.kind.tolist(), sides.line.tolist(), sides.start.tolist(), sides.stop.tolist()))
[(0, 0, 0, 2), (1, 1, 0, 2), (2, 2, 0, 1), (3, 0, 0, 1)]

5. Outlines. `outlines_wkb` walks along the sides until a ring closes, and writes WKB: byte order,
type 3 (polygon), 1 ring, 5 points, then the coordinates. `find_regions` does steps 3 to 5.

>>> import shapely
>>> from unet_ray.imaging.regions.separation import unseparated
>>> found = find_regions(unseparated(mask), prob_u8)
>>> found.geometry[0][:13].hex(" ", 4)
'01 03000000 01000000 05000000'
>>> for outline in shapely.from_wkb(found.geometry):
...     print(outline)
POLYGON ((0 0, 2 0, 2 1, 0 1, 0 0))
MULTIPOLYGON (((4 1, 5 1, 5 2, 4 2, 4 1)), ((2 2, 4 2, 4 3, 2 3, 2 2)))
POLYGON ((0 2, 1 2, 1 4, 0 4, 0 2))

6. Row. The measures of label 1, as the table `regions` has them: area, bounding box, score
655 / (3·255) and centroid (9/3 + 0.5, 5/3 + 0.5).

>>> print(found.area[1], found.bbox[1], found.score[1].round(3), found.centroid[1].round(2))
3 [2 1 5 3] 0.856 [3.5  2.17]

7. Run lengths. The table `masks` has the whole mask as COCO run lengths, column by column: 0 pixels
outside, 1 inside, 1 outside, 3 inside, and so on. Exports encode each outline on its own.

>>> from unet_ray.imaging.regions.outline_rle import encode_outlines
>>> from unet_ray.imaging.regions.run_lengths import decompress_counts, encode_rle
>>> code = encode_rle(mask)
>>> code, decompress_counts(code).tolist()
(b'01124NN0O00', [0, 1, 1, 3, 5, 1, 3, 1, 2, 1, 2])
>>> decompress_counts(encode_outlines(shapely.from_wkb(found.geometry), 4, 5)[0]).tolist()
[0, 1, 3, 1, 15]

8. Tiles. A large image is measured tile by tile; here, x 0 to 2 and x 3 to 4. Regions that touch no
seam are finished (`inner`). The others are pieces; each keeps its sides, but none on the seam.

    left tile     right tile
      # # .         . .
      . . .         . #
      # . #         # .
      # . .         . .

>>> from unet_ray.imaging.geometry import Box
>>> from unet_ray.imaging.regions.tile_regions import find_tile_regions
>>> left = find_tile_regions(unseparated(mask[:, :3]), prob_u8[:, :3], Box(0, 0, 4, 3), 4, 5)
>>> right = find_tile_regions(unseparated(mask[:, 3:]), prob_u8[:, 3:], Box(0, 3, 4, 5), 4, 5)
>>> left.inner.area.tolist(), left.pieces.area.tolist(), left.pieces.prob_u8_sum.tolist()
([2, 2], [1], [200])
>>> right.inner.area.tolist(), right.pieces.area.tolist(), right.pieces.prob_u8_sum.tolist()
([], [2], [455])

9. Merge. The tiles meet between the left one's right edge and the right one's left edge. In row 2,
part 0 meets part 1 (−1 is no part), so their pieces are one region, with the area 1 + 2 and the
prob_u8 sum 200 + 455. There is no side between the two parts; their sides at y = 2, from x 2 to 3
and from x 3 to 4, become one, likewise at y = 3. The result equals that of the whole mask.

>>> left.edges.right.part.tolist(), right.edges.left.part.tolist()
([-1, -1, 0, -1], [-1, -1, 1, -1])
>>> from unet_ray.imaging.regions.merge import RegionMerger
>>> merger = RegionMerger(height=4, width=5)
>>> merger.add(right)
>>> merger.add(left)
>>> merged = merger.regions()
>>> merged.area.tolist(), merged.sums.prob_u8_sum.tolist()
([2, 3, 2], [400, 655, 400])
>>> list(merged.geometry) == list(found.geometry)
True
"""
