// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Bid} from "../../../src/interfaces/IComputeEscrow.sol";
import {Market} from "../Market.sol";

/// @notice What must fail for everybody: the extension called where it is, powers that an owner would have, and calls about
/// leases under other names.
abstract contract AttackActions is Market {
    /// @dev The extension's own storage is empty and stays so: whatever would write is refused there.
    function callExtension(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        Known storage k = _known[_pick(_openSet())];
        bytes[6] memory calls;
        calls[0] = abi.encodeCall(ESCROW.topUp, (_orders(k), abi.decode(k.bid, (Bid)), k.seat, 1));
        calls[1] = _named(ESCROW.refund, k);
        calls[2] = abi.encodeCall(ESCROW.cancel, (k.buyer, 1, true, ""));
        calls[3] = abi.encodeCall(ESCROW.collectFees, (accounts()));
        calls[4] = abi.encodeCall(ESCROW.depositWithAuthorization, (k.buyer, 1, 0, type(uint256).max, 0, 27, 0, 0));
        calls[5] = abi.encodeCall(ESCROW.withdraw, (k.buyer, 1));
        address sender = [k.buyer, k.provider, k.witness, stranger][_draw(4)];
        _doAt(ESCROW.extension(), "callExtension", false, sender, calls[_draw(6)]);
    }

    /// @dev Nobody owns the escrow, least of all who deployed it; nor does it say yes to calls that it does not know.
    function ownIt(uint256 seed) external acting(seed) {
        address victim = buyers[_draw(BUYERS)];
        bytes[8] memory calls;
        calls[0] = abi.encodeWithSignature("transferOwnership(address)", deployer);
        calls[1] = abi.encodeWithSignature("pause()");
        calls[2] = abi.encodeWithSignature("upgradeToAndCall(address,bytes)", deployer, "");
        calls[3] = abi.encodeWithSignature("setFeeRecipient(address)", deployer);
        calls[4] = abi.encodeWithSignature("sweep(address,address,uint256)", address(TOKEN), deployer, 1);
        calls[5] = abi.encodeCall(IERC20.transferFrom, (victim, deployer, 1));
        calls[6] = abi.encodePacked(bytes4(keccak256(abi.encode(seed))));
        calls[7] = "";
        _do("ownIt", false, _once(2) ? deployer : feeRecipient, calls[_draw(8)]);
    }

    /// @dev A lease's number under other parties is no lease.
    function misname(uint256 seed) external acting(seed) {
        if (_known.length == 0) return;
        uint256 index = _pick(_openSet());
        Known storage k = _known[index];
        (address buyer, address provider, address witness) = (k.buyer, k.provider, k.witness);
        address liar = _anyone();
        uint256 which = _draw(3);
        if (which == 0) buyer = liar;
        else if (which == 1) provider = liar;
        else witness = liar;
        if (buyer == k.buyer && provider == k.provider && witness == k.witness) return;
        bytes4 selector = _once(2) ? ESCROW.stop.selector : ESCROW.refund.selector;
        _touch(index, false);
        _do("misname", false, liar, abi.encodeWithSelector(selector, buyer, provider, witness, k.leaseNo));
    }
}
