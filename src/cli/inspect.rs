//! stub
#[derive(clap::Args)]
pub struct InspectOptions {
    #[arg(long)]
    pub x: Option<u32>,
}
pub fn inspect(
    _c: &crate::video::Clip,
    _o: &InspectOptions,
    _f: &std::path::Path,
) -> anyhow::Result<()> {
    Ok(())
}
