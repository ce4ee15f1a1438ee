mod facts;
mod leading;
mod properties;
mod world;
