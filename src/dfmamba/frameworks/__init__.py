"""How a labelled sample becomes a network's input and target, and its output joints in millimetres.

A framework is a published way to do that, with its crop, augmentation, loss and read-out; any backbone fits.
"""

from dfmamba.frameworks.base import Example, Framework, framework_from_dict

__all__ = ["Example", "Framework", "framework_from_dict"]
