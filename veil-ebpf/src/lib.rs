//! VEIL's kernel side. Empty so far: the steering program and what both sides of the kernel line share arrive with the
//! AF_XDP link. Until then VEIL carries its datagrams by UDP sockets.
