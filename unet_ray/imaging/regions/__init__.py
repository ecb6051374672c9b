"""Regions: masks become objects with measures and outlines, for whole images and tile by tile.

Worked example: a mask of 5 × 4 pixels, x to the right, y down. The bar at x = 3 is a seam between
two tiles in step 6. prob_u8 is 200 in the mask, but 255 at (x 3, y 2).

         x 0 1 2 | 3 4              labels + 1
    y 0    # # . | . .              1 1 0 0 0
      1    . . . | . #              0 0 0 0 2
      2    # . # | # .              3 0 2 2 0
      3    # . . | . .              3 0 0 0 0

1. `Runs.of_mask` finds the runs [start, stop) of each row: row 0 [0, 2), row 1 [4, 5),
   row 2 [0, 1) and [2, 4), row 3 [0, 1).
2. Runs that meet, also at a corner, form a component; components are numbered by their first
   pixels: labels 0, 1, 2, 1, 2. `unseparated` wraps the runs as a `SeparatedMask`. Networks with
   markers use `separate_touching` instead, which also splits components.
3. `sum_pixels` gives `RegionSums`: area 2, 3, 2; prob_u8_sum 400, 655, 400; x_sum 1, 9, 0;
   y_sum 0, 5, 5; first (row, column) (0, 0), (1, 4), (2, 0). Label 1 has the bbox (2, 1, 5, 3).
4. `Parts.of` splits labels into 4-connected parts: runs 0 … 4 belong to parts 0, 1, 2, 3, 2.
   Label 1 consists of parts 1 and 3, which share only the vertex (x 4, y 2). `Parts.sides` gives
   the straight sides of each part; part 0 has y = 0 and y = 1 for x 0..2, and x = 0 and x = 2 for
   y 0..1.
5. `outlines_wkb` chains sides to rings and returns WKB. Label 0 has the ring
   (0 0, 2 0, 2 1, 0 1, 0 0). Label 1 is a multipolygon with the rings (4 1, 5 1, 5 2, 4 2, 4 1) and
   (2 2, 4 2, 4 3, 2 3, 2 2). `find_regions` returns sums and outlines as `Regions`. Label 1 has
   the score 655 / (255·3) = 0.856 and the centroid (9/3 + 0.5, 5/3 + 0.5) = (3.5, 2.17).
6. `find_tile_regions` measures each tile alone. In the left tile, the components at the left edge
   touch no seam: they are finished (`inner`). Pixel (x 2, y 2) touches it: it is a piece of area 1,
   with one part. In the right tile, both pixels are one piece of area 2, with two parts:
   (x 4, y 1) is part 0 and (x 3, y 2) is part 1. No tile lists sides on the seam. Instead each tile
   keeps the parts along its edges; from y = 0 to 3, the right edge of the left tile has the parts
   −1, −1, 0, −1 and the left edge of the right tile −1, −1, 1, −1 (−1: none).
7. `RegionMerger` compares the two edges: in row 2, left part 0 meets right part 1. So their pieces
   are one region: areas 1 + 2 = 3, prob_u8_sum 200 + 455 = 655, first the smaller of (2, 2) and
   (1, 4), which is (1, 4). The two parts become one, there is no side between them, and their sides
   at y = 2 (x 2..3 and 3..4) are joined to x 2..4, likewise at y = 3. The resulting `Regions` equal
   those of step 5; their outlines are equal byte for byte.
"""
