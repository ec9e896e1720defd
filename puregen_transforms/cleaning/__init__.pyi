from .findings import CleaningReport as CleaningReport
from .findings import Findings as Findings
from .whole_sets import CleanedDataset as CleanedDataset
from .whole_sets import clean_dataset as clean_dataset
