//! VEIL's AF_XDP side. Empty so far: UMEM, rings and the loader of the steering program arrive with the AF_XDP link. Until
//! then VEIL carries its datagrams by UDP sockets.
