from .items import GALLERY, GalleryItem, read_gallery

__all__ = ["GALLERY", "GalleryItem", "read_gallery"]
