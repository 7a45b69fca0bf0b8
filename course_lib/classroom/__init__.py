"""The course as it is taught: running the notebooks and keeping their pages light."""
