"""Learners, one file each, their replay and the export of what they learned. Needs the extra `train`."""
