//! `coati tune`: hands what the kernel says of its io_uring to the tuners.

use coati_tuning::{Ending, TuneArgs};

use super::{Failure, Outcome, print};
use crate::io::probe;

pub fn run(args: TuneArgs) -> Outcome {
    let told = args.run(|| probe::features().map_err(|error| error.to_string()))?;
    print(&told.text)?;
    match told.ending {
        Ending::Well => Ok(()),
        Ending::Found(code) => Err(Failure::Found(code)),
        Ending::Failed(error) => Err(error.into()),
    }
}
