"""Export formats: COCO, label PNG, GeoJSON and GeoParquet, one module each."""
