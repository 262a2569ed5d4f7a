"""What is read: images, MOS and their scales, reasoning texts, data sets of pyiqa and of other layouts."""
