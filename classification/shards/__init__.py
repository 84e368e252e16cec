"""Many images in few files: shards in the MDS format of mosaicml-streaming, made of any index and read as one."""
