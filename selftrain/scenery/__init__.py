"""What drawn street scenes are made of; `selftrain.data.scenes` puts them together.

`canvas` (camera, light, picture and labels), `style` (palettes and chances as data), `street` and
`layout` (what is where) come first; the other modules paint one kind of thing each.
"""
