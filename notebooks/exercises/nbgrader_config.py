"""nbgrader's settings for this course: what its commands and the formgrader do here and in a graded class's folder.

Nothing that a student wrote runs inside nbgrader: in place of its Execute step stands the verdict that the two-process
judge recorded (`make grade`), and feedback leaves out the hidden tests.
"""

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    GetGrades,
    LimitOutput,
    SaveAutoGrades,
)

from course_lib.classroom.plugs import FeedbackText, HideTests, RecordedVerdict

c = get_config()  # noqa: F821 (traitlets puts it there)

c.Autograde.autograde_preprocessors = [
    RecordedVerdict,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
c.GenerateFeedback.preprocessors = [HideTests, GetGrades, FeedbackText, CSSHTMLHeaderPreprocessor]
