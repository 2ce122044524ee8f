"""Where images come from: every kind of data becomes a `holdfast.data.source.Source` through `holdfast.data.load.load`.

Nothing here imports torch: tensors and data sets that a caller hands over are recognised by what they are.
"""
