"""The stages of segmentation as plain callables, Arrow table in, Arrow tables out; Ray only schedules them.

    plan ──Decode──▶ pixels ──Predict──▶ q ──Measure──▶ rows of the three tables, an image per row

An image that fails anywhere goes on as a row with its error and without pixels. Only `predict` and `large`
need torch.
"""
