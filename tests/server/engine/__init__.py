"""Tests of the engines inside one process."""
